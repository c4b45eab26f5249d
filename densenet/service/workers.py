"""scripts/workers: show or scale the workers of a running service."""

import struct
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import requests
import typer

from densenet import tables
from densenet.service import lookup, management, quiesce, readiness, torchserve, trial
from densenet.service.lookup import KeysOption, ManagementOption, PortOption, UrlOption
from densenet.service.management import Model, Worker
from densenet.service.torchserve import Service, private_memory
from export import console
from export.console import CliError
from export.evaluation import describe
from handler import worker_control

_CARD_SECONDS = 10  # for a worker to show the model card, which waits in the queue


def main(
    count: Annotated[int | None, typer.Argument(min=1, help="Number of workers to scale to.", metavar="[N]")] = None,
    minimum: Annotated[int | None, typer.Option("--min", min=1, help="Scale up to this number; keep more.")] = None,
    maximum: Annotated[int | None, typer.Option("--max", min=1, help="Scale down to this number; keep fewer.")] = None,
    port: PortOption = None,
    url: UrlOption = None,
    management_url: ManagementOption = None,
    key_file: KeysOption = None,
    seconds: Annotated[
        float, typer.Option("--drain-seconds", min=0, help="How long to wait for running requests before scaling down.")
    ] = 150,  # longer than TorchServe lets a request run before it ends the worker: 120 by our model-config.yaml
) -> None:
    """Show the workers of the running service and its queue; with a number, scale and wait until they serve.

    No request is lost: workers end only while none of them is working. After a restart, the archive's number applies.
    """
    if count and (minimum or maximum):
        raise CliError("give a number, or --min and --max")
    with torchserve.lock():
        service = lookup.find(port, url, management_url, key_file)
        if not service.management:
            raise CliError("--url needs --management, the address of the same TorchServe's management API")
        introduce(service)
        if count or minimum or maximum:
            scale(service, count or minimum, count or maximum, seconds)
    show(service)


def scale(service: Service, minimum: int | None, maximum: int | None, seconds: float) -> None:
    """Bring the number of workers between two bounds, and wait until they serve; None keeps a bound.

    Raises:
        CliError: if the bounds contradict each other, running requests take too long, or a worker cannot start.
    """
    model = management.describe_default(service)
    minimum = minimum or min(model.min_workers, maximum or model.min_workers)
    maximum = maximum or max(model.max_workers, minimum)
    if minimum > maximum:
        raise CliError(f"--min {minimum} is more than --max {maximum}")
    if len(model.workers) > maximum:
        _check_pausable(service)
        with console.err.status("waiting for a moment between requests"), quiesce.paused(service, seconds):
            management.scale(service, minimum, maximum)
        # Created after scaling down, which may end a worker that is still loading; that is not a failure.
        watch = readiness.Watch(Path(service.logs))
    else:
        watch = readiness.Watch(Path(service.logs))
        management.scale(service, minimum, maximum)
    try:
        readiness.wait(service, watch)
    except CliError as error:
        raise CliError(f"not all of the {minimum} workers are ready: {error}") from error


def introduce(service: Service) -> None:
    """Print the address and the weights; a worker is asked for them if scripts/serve did not start the service.

    Raises:
        CliError: if TorchServe does not answer, refuses, or has no such model.
    """
    try:
        card: Any = service.card if service.is_ours else _card(service)
    except requests.RequestException as error:
        raise CliError(f"TorchServe's management API does not answer at {service.management}") from error
    match card:
        case {"weights": {"name": _}, "precision": _}:
            what = describe(card)
        case _:
            what = "weights unknown"
    console.err.print(f"{service.url}: {what}", markup=False)


def _card(service: Service) -> object:
    if not management.describe_default(service).ready:
        return None  # nobody would answer
    with suppress(requests.Timeout):  # the queue is long
        model = management.describe(service, card=True, seconds=_CARD_SECONDS)
        return model and model.card
    return None


def _check_pausable(service: Service) -> None:
    if not service.is_ours:
        raise CliError(
            "scripts/serve did not start this service, so its workers cannot be paused, and a request that one of them "
            f"is working on would be lost; to accept that: curl -X PUT '{management.address(service)}?min_worker=N'"
        )


def others(service: Service, default: Model) -> list[str]:
    """Return the names of the versions that TorchServe has beside the default one."""
    return sorted({*management.versions(service)} - {default.version})


def show(service: Service) -> None:
    """Print a table of the workers of each version, and the length of its queue; the default version comes first."""
    default = management.describe_default(service)
    if not service.is_ours:
        console.err.print("- means unknown, because scripts/serve did not start this service")
    _show(service, default, "")
    names = others(service, default)
    for model in (management.describe(service, name) for name in names):
        if model:
            _show(service, model, ", not the default")
    if service.is_ours:
        warn_of(service, names)


def warn_of(service: Service, names: Collection[str]) -> None:
    """Print a line if TorchServe has versions beside the default one."""
    if names:
        made = trial.read(Path(service.folder))
        running = trial.current(Path(service.folder)) is not None
        what = f" for a trial{'' if running else ' whose command was killed'}: {made};" if made else ";"
        console.err.print(
            f"beside the default version, {', '.join(names)} is registered{what} scripts/rollout --port {service.port} "
            "--history shows what is in service, and --abort removes the rest",
            markup=False,
        )


def _show(service: Service, model: Model, note: str) -> None:
    numbers = ("memory", "age", "requests")
    rows = ((worker.id, *_row(service, worker)) for worker in model.workers)
    tables.show(("worker", "pid", "state", *numbers, "working"), rows, numbers=numbers)
    console.out.print(
        f"{model.ready} of {model.min_workers} ready, version {model.version}{note}; "
        f"queue: {model.queued} waiting, room for {model.queue_capacity} more"
    )


def _row(service: Service, worker: Worker) -> tuple[str, ...]:
    """Return the cells for pid, state, memory, age, number of requests, and how long it has been working."""
    state = "ready" if worker.ready else "loading"
    if not service.pid:  # it may run on another machine, where this one's processes have other ids
        return str(worker.pid), state, "-", _format_duration(time.time() - worker.started), "-", "-"
    try:
        process = psutil.Process(worker.pid)
        memory = f"{private_memory(process) / 1e6:.0f} MB"  # workers share 280 MB of libraries
        age = _format_duration(time.time() - process.create_time())
    except (psutil.NoSuchProcess, ValueError):
        return "-", "ended; restarting", "", "", "", ""
    if not service.is_ours:
        return str(worker.pid), state, memory, age, "-", "-"
    try:
        answered, since = worker_control.read_record(service.control, worker.pid)
    except (OSError, struct.error):
        return str(worker.pid), "loading", memory, age, "", ""
    working = f"for {_format_duration(time.time() - since)}" if since else "no"
    return str(worker.pid), state, memory, age, str(answered), working


def _format_duration(seconds: float) -> str:
    """Format a duration: `0.3 s`, `45 s`, `12 min`, `3 h`, `8 days`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    for size, unit, limit in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172800)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
