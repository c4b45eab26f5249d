"""Workers: how long one more takes to be ready, and how much memory it has for itself."""

import time
from pathlib import Path

from densenet.benchmark import serving
from densenet.benchmark.load import Address
from densenet.benchmark.plan import SMALL, Part
from densenet.benchmark.record import tell
from densenet.benchmark.run import Run
from densenet.service import management
from densenet.service.torchserve import Service, private_memory, worker_processes
from export.console import Problem

_PATIENCE = 60  # seconds for a worker to come or to go
_ANSWERS = 20  # that a worker has given before its memory is read, about


def measure(run: Run) -> None:
    """Adds a row a precision and round: seconds from the request to READY, and the new worker's private MB."""
    for precision in run.precisions:
        with run.record.guarded(Part.WORKERS, f"one more worker, {precision}"):
            scratch = run.scratch(f"workers-{precision}")
            with serving.ours(precision, 1, run.models, scratch) as service:
                for turn in range(run.effort.rounds):
                    seconds, megabytes = _one_more(service, run.photos[SMALL])
                    row = {"round": turn, "precision": precision, "seconds": seconds, "private_mb": megabytes}
                    run.record.add(Part.WORKERS, **row)
                    tell(f"one more worker, {precision}: {seconds:.1f} s, private memory {megabytes:.0f} MB")


def _one_more(service: Service, photos: list[Path]) -> tuple[float, float]:
    """A second worker comes, answers some photos, and goes: seconds until it was READY, and MB of its own."""
    others = {worker.pid for worker in worker_processes(service)}
    seconds = _scale(service, 2)
    serving.warm_up(Address(service.url), photos * (2 * _ANSWERS // len(photos) + 1), 2)
    (new,) = (worker for worker in worker_processes(service) if worker.pid not in others)
    megabytes = private_memory(new) / 1e6
    _scale(service, 1)
    return seconds, megabytes


def _scale(service: Service, count: int) -> float:
    """Asks for so many workers; the seconds until they, and no others, are there."""
    begun = time.monotonic()
    management.scale(service, count, count)
    while time.monotonic() < begun + _PATIENCE:
        state = management.describe(service)
        if state and state.ready == count and len(worker_processes(service)) == count:
            return time.monotonic() - begun
        time.sleep(0.05)
    raise Problem(f"there were not {count} workers within {_PATIENCE} seconds")
