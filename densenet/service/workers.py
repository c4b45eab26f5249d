"""scripts/workers: the workers of a running service, shown or scaled."""

import struct
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.table import Table

from densenet.service import management, quiesce, readiness, torchserve
from densenet.service.management import Model, Worker
from densenet.service.torchserve import Service, private_memory
from export import console
from export.console import Problem
from handler import control

PortOption = Annotated[int | None, typer.Option(help="Of the service, where this checkout runs several.")]


def main(
    count: Annotated[int | None, typer.Argument(min=1, help="How many there shall be.", metavar="[N]")] = None,
    least: Annotated[int | None, typer.Option("--min", min=1, help="At least so many; more are left alone.")] = None,
    most: Annotated[int | None, typer.Option("--max", min=1, help="At most so many; fewer are left alone.")] = None,
    port: PortOption = None,
    seconds: Annotated[
        float, typer.Option("--drain-seconds", min=0, help="How long a running request may keep workers from ending.")
    ] = 150,  # more than TorchServe itself gives a request before it ends the worker: 120 by our model-config.yaml
) -> None:
    """Shows the workers of the running service and its queue; with a number, scales, and returns when they serve.

    No request is lost: workers end while none is being worked on. A restart has the archive's number again."""
    if count and (least or most):
        raise Problem("give a number, or --min and --max")
    with torchserve.lock():
        service = torchserve.find(port)
        if count or least or most:
            scale(service, count or least, count or most, seconds)
    show(service)


def scale(service: Service, least: int | None, most: int | None, seconds: float) -> None:
    """Brings the workers between two numbers, and waits until they serve. None: as it is. Raises Problem."""
    model = _described(service)
    least = least or min(model.wanted, most or model.wanted)
    most = most or max(model.most, least)
    if least > most:
        raise Problem(f"--min {least} is more than --max {most}")
    if len(model.workers) > most:
        with console.err.status("waiting for a moment between requests"), quiesce.held(service, seconds):
            management.scale(service, least, most)
        watch = readiness.Watch(Path(service.logs))  # a worker that ended while it was loading is no failure
    else:
        watch = readiness.Watch(Path(service.logs))
        management.scale(service, least, most)
    try:
        readiness.wait(service, watch)
    except Problem as problem:
        raise Problem(f"not all of {least} workers serve: {problem}") from problem


def show(service: Service) -> None:
    """Prints a table of the workers, and how long the queue is."""
    model = _described(service)
    table = Table("worker", "pid", "state", "memory", "age", "requests", "working", box=None, pad_edge=False)
    for column in table.columns[3:6]:
        column.justify = "right"
    for worker in model.workers:
        table.add_row(worker.id, *_row(service, worker))
    console.out.print(table)
    console.out.print(
        f"{model.ready} of {model.wanted} ready, version {model.version}; "
        f"queue: {model.queued} waiting, room for {model.room} more"
    )


def _described(service: Service) -> Model:
    model = management.describe(service)
    if model is None:
        raise Problem(f"TorchServe does not know {service.model}; see {service.logs}")
    return model


def _row(service: Service, worker: Worker) -> tuple[str, ...]:
    """pid, state, memory, age, requests and since when it works."""
    try:
        process = psutil.Process(worker.pid)
        memory = f"{private_memory(process) / 1e6:.0f} MB"  # workers share 280 MB of libraries
        age = _span(time.time() - process.create_time())
    except (psutil.NoSuchProcess, ValueError):
        return "-", "gone; being started anew", "", "", "", ""
    try:
        requests, since = control.read_record(service.control, worker.pid)
    except (OSError, struct.error):
        return str(worker.pid), "loading", memory, age, "", ""
    working = f"for {_span(time.time() - since)}" if since else "no"
    return str(worker.pid), "ready" if worker.ready else "loading", memory, age, str(requests), working


def _span(seconds: float) -> str:
    """`0.3 s`, `45 s`, `12 min`, `3 h`, `8 days`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    for size, unit, longest in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172800)):
        if seconds < longest:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
