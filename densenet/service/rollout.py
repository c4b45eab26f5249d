"""scripts/rollout: start a new version beside the current one, compare the two, and replace the old one."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from densenet import tables
from densenet.paths import PHOTO, PHOTOS
from densenet.service import (
    authenticated_session,
    comparison,
    drain,
    history,
    management,
    quiesce,
    readiness,
    torchserve,
    trial,
)
from densenet.service.archive import ArchiveOptions, make_again
from densenet.service.comparison import Bounds
from densenet.service.history import Entry, History
from densenet.service.lookup import PortOption
from densenet.service.management import LOADING, Model
from densenet.service.properties import Properties
from densenet.service.readout import Limits
from densenet.service.serve import CalibrationImages, ClassIndex
from densenet.service.torchserve import Service
from densenet.service.trial import Plan
from densenet.service.workers import introduce
from export import Precision, console
from export.archive import copy_with_settings, is_servable, read_card, read_config, read_version, start_settings
from export.console import CliError
from export.evaluation import is_calibrated
from handler import worker_control


def main(
    archive: Annotated[
        Path | None,
        typer.Argument(
            help="Archive of the new version, made by scripts/archive.",
            metavar="[ARCHIVE]",
            callback=console.existing_file,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Instead of an archive: weights to export, pack and roll out; imagenet, untrained or a file.",
            callback=console.named_weights,
        ),
    ] = None,
    class_index: ClassIndex = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="With --weights: precision of the network; auto: bf16 where the processor has AMX, else fp32. "
            "[default: that of the version in service]",
            parser=console.precision,
            metavar=console.PRECISIONS,
        ),
    ] = None,
    calibration_images: CalibrationImages = None,
    version: Annotated[
        str | None, typer.Option(help="With --weights: the new version's name. [default: the next free one]")
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Return to the version before the one in service, one step in --history.")
    ] = False,
    show_history: Annotated[
        bool, typer.Option("--history", help="Show the versions that were in service, and which one is.")
    ] = False,
    abort: Annotated[
        bool,
        typer.Option("--abort", help="End a trial, and remove what a rollout left: all versions not in service."),
    ] = False,
    photos: Annotated[
        Path, typer.Option(help="Photos to compare the versions on, similar to those you serve.", metavar="DIR")
    ] = PHOTOS,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Minimum share of photos, and of a shadow's requests, whose best class is the same in both versions; "
            f"0 does not compare. [default: {comparison.MIN_AGREEMENT}; for --rollback, --labelled, other classes 0]",
        ),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            help="Labelled photos, as for scripts/evaluate, to compare the accuracy on.",
            metavar="DIR",
            callback=console.existing_folder,
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="With --labelled: the new version's minimum accuracy. [default: the old one's less "
            f"{comparison.MAX_LOSS:g}]",
        ),
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="First send the new version this share of the gateway's requests."),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="First send the new version copies of the gateway's requests.")
    ] = False,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="How long: 90s, 10m, 2h; for --canary and --shadow.")
    ] = None,
    max_errors: Annotated[
        float, typer.Option(min=0, max=1, help="Maximum share of 5xx among the new version's requests meanwhile.")
    ] = 0.01,
    min_requests: Annotated[
        int, typer.Option(min=0, help="Minimum number of requests that the new version gets meanwhile.")
    ] = 20,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of requests that a worker of the new version takes at once. [default: the archive's "
            "own, else that of the version in service]",
        ),
    ] = None,
    port: PortOption = None,
    seconds: Annotated[
        float, typer.Option("--drain-seconds", min=0, help="How long the old version may work on a request.")
    ] = 150,  # longer than TorchServe lets a request run before it ends the worker
) -> None:
    """Replace the running version by a new one without losing a request: register it beside the old one, wait until it
    serves, check its model card and predictions, make it the default, drain the old one and unregister it. If a step
    fails, the old version continues to serve. The next start serves the new version.

    With --canary or --shadow, the new version first proves itself on clients' requests: when the time is over, it is
    put into service if it is within --max-errors and --min-agreement, and removed if not.

    The service must have been started with scripts/serve --model-api."""
    if [archive is not None, weights is not None, rollback, show_history, abort].count(True) != 1:
        raise CliError("give an archive, --weights, --rollback, --history or --abort")
    new = ArchiveOptions(weights, class_index, precision, calibration_images)
    if weights is None and (version or new != ArchiveOptions()):
        raise CliError("--class-index, --precision, --calibration-images and --version belong to --weights")
    bounds = Bounds(photos, min_agreement, labelled, min_accuracy)
    limits = Limits(min_requests, max_errors)
    plan = _plan(canary, duration, limits, shadow=shadow)
    if (show_history or abort) and (plan or batch_size or bounds != Bounds(photos)):
        raise CliError(
            "--min-agreement, --labelled, --min-accuracy, --batch-size, --canary and --shadow are for rollouts"
        )
    with ExitStack() as stack:
        lock = stack.enter_context(torchserve.lock())
        service = torchserve.find(port)
        introduce(service)
        if show_history:
            show(service)
        elif abort:
            clean_up(service, seconds)
        else:
            if weights is not None:
                archive = stack.enter_context(_packed(service, new, version, plan, lock))
            if archive is None:
                archive, bounds = _previous_archive(service), replace(bounds, min_agreement=min_agreement or 0.0)
            try:
                roll(service, archive, bounds, seconds, plan, lock, batch_size)
            finally:
                history.clean(Path(service.folder))


def _plan(canary: str | None, duration: str | None, limits: Limits, *, shadow: bool) -> Plan | None:
    """Return the trial that the options ask for, if any.

    Raises:
        CliError: if they contradict each other, or cannot be read.
    """
    if bool(canary or shadow) != bool(duration) or (canary and shadow):
        raise CliError("give --canary PERCENT or --shadow, together with --for TIME")
    if duration is None:
        return None
    time = re.fullmatch(r"(\d+)([smh])", duration)
    if time is None:
        raise CliError(f"--for must be a time such as 90s, 10m or 2h, not {duration}")
    percent = re.fullmatch(r"(\d{1,2}(?:\.\d{1,2})?)%?", canary or "0")
    if percent is None or (canary and not float(percent[1])):
        raise CliError(f"--canary must be a percentage below 100 such as 10%, not {canary}")
    return Plan(float(percent[1]), int(time[1]) * {"s": 1, "m": 60, "h": 3600}[time[2]], limits)


@contextmanager
def _packed(
    service: Service, new: ArchiveOptions, version: str | None, plan: Plan | None, lock: TextIO
) -> Iterator[Path]:
    """Export weights and pack them, in a folder that exists for the time of the block.

    What the options do not name, and the version in service has, is kept. Checks first, since an export takes a minute
    or more, what would refuse the archive afterwards.
    """
    _model_store(service)
    past, serving = _only_in_service(service)
    named = replace(new, version=version or past.next_version())
    if plan:
        trial.check(service, named.version)
    with tempfile.TemporaryDirectory(prefix="densenet-rollout-") as scratch:
        packed = Path(scratch, f"{service.model}.mar")
        with torchserve.unlocked(lock):
            make_again(history.file(Path(service.folder), serving), named, packed, Path(scratch, "export"))
        yield packed


def show(service: Service) -> None:
    """Print the archives that were in service, and the versions that TorchServe has beside the one in service."""
    folder = Path(service.folder)
    past = history.adopt(folder)
    if past.serving is None:
        raise CliError(_unknown(service))
    head = ("version", "weights", "precision", "sha256", "since", "state")
    tables.show(head, (_row(past, entry) for entry in past.entries), title=f"service on port {service.port}")
    if others := _others(service, past.serving):
        console.err.print(_explain(service, others, past.serving), markup=False)


def _row(past: History, entry: Entry) -> tuple[str, ...]:
    state = "in service" if entry == past.serving else "withdrawn" if entry.withdrawn else ""
    since = f"{datetime.fromtimestamp(entry.since):%Y-%m-%d %H:%M:%S}"
    return entry.version, entry.weights, entry.precision, entry.short, since, state


def roll(
    service: Service,
    archive: Path,
    bounds: Bounds,
    seconds: float,
    plan: Plan | None = None,
    lock: TextIO | None = None,
    batch_size: int | None = None,
) -> None:
    """Replace the default version by the version of an archive.

    Args:
        plan: the trial to make first. lock: what torchserve.lock() has returned, to let other commands run meanwhile.
        batch_size: by default the archive's own, else that of the version in service.

    Raises:
        CliError: if a check or a step fails; the message says which version serves.
    """
    store, folder = _model_store(service), Path(service.folder)
    card, version = read_card(archive), read_version(archive)
    if not is_servable(card):
        raise CliError(f"{archive} was made by an older export; run scripts/export and scripts/archive again")
    past, serving = _only_in_service(service)
    if read_card(before := history.file(folder, serving)) != service.card:
        raise CliError(_unknown(service))
    if is_calibrated(service.card) and not is_calibrated(card):
        _report(
            f"version {serving.version} is calibrated and {version} is not: probabilities and `recognized` will change"
        )
    entry = history.keep(folder, archive)
    _check_name(service, serving, entry, archive)
    photos, same_classes = comparison.files(bounds.photos), comparison.have_same_classes(before, archive)
    min_agreement = bounds.agreement(same_classes=same_classes)
    if plan:
        trial.check(service, version)
        plan = replace(plan, limits=replace(plan.limits, agreement=min_agreement))
    old = management.describe_default(service)
    with _registered(service, archive, store, version, _settings(archive, old, batch_size)):
        _check_card(service, version, card)
        comparison.check_answers(service, serving.version, version, photos, min_agreement)
        comparison.check_accuracy(service, serving.version, version, (before, archive), bounds)
        if plan and lock:
            with torchserve.unlocked(lock):
                trial.conduct(service, plan, serving.version, version, seconds)
            if {*management.versions(service)} != {serving.version, version}:
                raise CliError(f"another command has changed the service's versions; {serving} stays in service")
            entry = history.keep(folder, archive)  # another command may have removed what the history does not name
        follow = _copy_to_model_store(service, archive, serving)
        _switch(service, serving.version, version, lambda: history.save(folder, past.with_serving(entry)))
    follow()
    torchserve.save_state(replace(service, card=card))
    _report(f"version {version} is in service; draining version {serving.version}")
    try:
        _drain_and_unregister(service, serving.version, seconds)
    except CliError as error:
        raise CliError(
            f"version {version} is in service, but version {serving.version} is still registered: {error}; "
            f"remove it with {_command(service, '--abort')}"
        ) from error
    _report(f"{entry} has replaced {serving}", final=True)


def clean_up(service: Service, seconds: float) -> None:
    """Unregister all versions but the one that the history says is in service, and make that one the default.

    A rollout that was interrupted before it changed the history never happened; one that was interrupted later is
    completed.

    Raises:
        CliError: if TorchServe does not have that version, or another one has not answered its requests in time.
    """
    _, serving = _in_service(service)
    folder, others = Path(service.folder), _others(service, serving)
    trial.end(folder, seconds)
    quiesce.release_all(service)
    (_properties(service).archive.parent / _served(service)).unlink(missing_ok=True)
    if others:
        worker_control.draining_file(service.control, serving.version).unlink(missing_ok=True)
        management.set_default(service, serving.version)
        torchserve.save_state(replace(service, card=read_card(history.file(folder, serving))))
    for version in others:
        _drain_and_unregister(service, version, seconds)
        _report(f"removed version {version}")
    history.clean(folder)
    _report(f"{serving} is in service, and no other is registered", final=True)


def _in_service(service: Service) -> tuple[History, Entry]:
    """Return the history and the archive in service.

    Raises:
        CliError: if there is no history, or TorchServe does not have the version that it says is in service.
    """
    past = history.adopt(Path(service.folder))
    if past.serving is None or past.serving.version not in management.versions(service):
        raise CliError(_unknown(service))
    return past, past.serving


def _only_in_service(service: Service) -> tuple[History, Entry]:
    """Return the history and the archive in service, if no other version is registered.

    Raises:
        CliError: as `_in_service` does, and if another version is registered.
    """
    past, serving = _in_service(service)
    if others := _others(service, serving):
        raise CliError(_explain(service, others, serving))
    return past, serving


def _others(service: Service, serving: Entry) -> list[str]:
    """Return the versions that TorchServe has beside the one in service."""
    return sorted({*management.versions(service)} - {serving.version})


def _explain(service: Service, others: Sequence[str], serving: Entry) -> str:
    running = trial.current(Path(service.folder))
    why = f"a rollout makes a trial, {running}" if running else "a rollout was interrupted, or somebody registered it"
    return (
        f"version {', '.join(others)} is registered beside version {serving.version}, which is in service: {why}; "
        f"remove it with {_command(service, '--abort')}"
    )


def _unknown(service: Service) -> str:
    return (
        f"the history of the service on port {service.port} does not tell what it serves; its start was interrupted, "
        f"or is older than this program: scripts/stop --port {service.port}, then scripts/serve"
    )


def _command(service: Service, option: str) -> str:
    return f"scripts/rollout --port {service.port} {option}"


def _check_name(service: Service, serving: Entry, entry: Entry, archive: Path) -> None:
    if entry.version != serving.version:
        return
    if entry.digest == serving.digest:
        raise CliError(f"version {entry.version} is already in service")
    port = service.port
    raise CliError(
        f"TorchServe cannot have two versions of one name, {entry} and, in service, {serving}; pack the new one with a "
        f"different --version, or restart: scripts/stop --port {port}, scripts/serve --port {port} --archive {archive}"
    )


def _settings(archive: Path, old: Model, batch_size: int | None) -> dict[str, int]:
    """Return the settings of the new version: as many workers as the old one has, and its batch size by default."""
    own = read_config(archive).get("batchSize")
    return start_settings(max(old.min_workers, 1), batch_size or own or old.batch_size)


@contextmanager
def _registered(
    service: Service, archive: Path, store: Path, version: str, settings: Mapping[str, int]
) -> Iterator[None]:
    """Register the archive's version and wait until it serves; unregister it if the block raises."""
    _report(f"starting version {version} with {settings['minWorkers']} worker(s) beside the current version")
    served = store / _served(service)
    worker_control.draining_file(service.control, version).unlink(missing_ok=True)  # of a command that was killed
    watch = readiness.Watch(Path(service.logs))
    copy_with_settings(archive, served, settings)
    try:
        management.register(service, served.name)
    finally:
        served.unlink()  # TorchServe has unpacked it
    try:
        readiness.wait(service, watch, version)
        yield
    except BaseException:
        if service.alive and version in management.versions(service):  # another command may have ended either
            _drain_and_unregister(service, version, LOADING)
        raise


def _check_card(service: Service, version: str, card: dict[str, Any]) -> None:
    served = management.describe(service, version, card=True)
    if served is None or served.card is None or served.card.get("network") != card["network"]:
        raise CliError(f"version {version} does not serve its archive's network; the old version stays in service")


def _switch(service: Service, old: str, new: str, commit: Callable[[], None]) -> None:
    """Make the new version the default, check that it answers, and commit; restore the old default if any fails."""
    management.set_default(service, new)
    try:
        with authenticated_session.session(service) as http:
            prediction = comparison.predict(http, service.url, PHOTO)
        if not prediction.get("success") or prediction["model"]["version"] != new:
            raise CliError(f"version {new} does not answer as the default; version {old} stays in service")
        commit()
    except BaseException:
        management.set_default(service, old)
        raise


def _drain_and_unregister(service: Service, version: str, seconds: float) -> None:
    """Unregister a version that is not the default one, once it has answered its requests."""
    with drain.drained_version(service, version, seconds):
        management.unregister(service, version)


def _copy_to_model_store(service: Service, archive: Path, serving: Entry) -> Callable[[], None]:
    """Prepare to replace the archive in the model store, if it is the one in service; others may belong to others.

    Copying can fail, for instance on a full disk, so it comes before the switch; renaming afterwards hardly can.

    Returns:
        A function that renames the copy into place.
    """
    home = Path(service.archive)
    if not home.exists() or history.digest(home) != serving.digest:
        return lambda: None
    shutil.copyfile(archive, partial := home.with_suffix(".partial"))

    def promote() -> None:
        partial.replace(home)

    return promote


def _served(service: Service) -> str:
    """Return the name of the file in the model store from which TorchServe registers a new version."""
    return f"{service.model}-rollout.mar"


def _model_store(service: Service) -> Path:
    properties = _properties(service)
    if not properties.model_api_enabled:
        raise CliError("the service does not accept new versions; start it with scripts/serve --model-api")
    return properties.archive.parent


def _properties(service: Service) -> Properties:
    return Properties.read(Path(service.folder, "config.properties"))


def _previous_archive(service: Service) -> Path:
    past, serving = _in_service(service)
    if past.previous is None:
        raise CliError(f"the history of the service on port {service.port} has nothing before {serving}")
    _report(f"returning from {serving} to {past.previous}")
    return history.file(Path(service.folder), past.previous)


def _report(message: str, *, final: bool = False) -> None:
    (console.out if final else console.err).print(message, markup=False)
