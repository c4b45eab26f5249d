"""Measure how long one more worker takes to be ready, and its private memory."""

import time
from pathlib import Path

from densenet.benchmark import serving
from densenet.benchmark.load import Address
from densenet.benchmark.plan import SMALL, Part
from densenet.benchmark.record import log
from densenet.benchmark.run import Run
from densenet.polling import wait_until
from densenet.service import management
from densenet.service.torchserve import Service, private_memory, worker_processes
from export.console import CliError

_TIMEOUT = 60  # seconds for a worker to start or stop
_ANSWERS = 20  # approximate number of a worker's answers before its memory is read


def measure(run: Run) -> None:
    """Add a row for each precision and round: seconds from the request to READY, and the worker's private MB."""
    for precision in run.precisions:
        with run.record.guarded(Part.WORKERS, f"one more worker, {precision}"):
            scratch = run.scratch(f"workers-{precision}")
            with serving.ours(precision, 1, run.models, scratch) as service:
                for turn in range(run.effort.rounds):
                    seconds, megabytes = _one_more(service, run.photos[SMALL])
                    row = {"round": turn, "precision": precision, "seconds": seconds, "private_mb": megabytes}
                    run.record.add(Part.WORKERS, **row)
                    log(f"one more worker, {precision}: {seconds:.1f} s, private memory {megabytes:.0f} MB")


def _one_more(service: Service, photos: list[Path]) -> tuple[float, float]:
    """Start a second worker, send some photos, and stop it; return seconds until READY and private MB."""
    others = {worker.pid for worker in worker_processes(service)}
    seconds = _scale(service, 2)
    serving.warm_up(Address(service.url), photos * (2 * _ANSWERS // len(photos) + 1), 2)
    (new,) = (worker for worker in worker_processes(service) if worker.pid not in others)
    megabytes = private_memory(new) / 1e6
    _scale(service, 1)
    return seconds, megabytes


def _scale(service: Service, count: int) -> float:
    """Scale to `count` workers; return the seconds until exactly these are ready.

    Raises: CliError if it takes longer than a minute.
    """
    begun = time.monotonic()
    management.scale(service, count, count)

    def scaled() -> bool:
        state = management.describe(service)
        return state is not None and state.ready == count == len(worker_processes(service))

    if not wait_until(scaled, _TIMEOUT):
        raise CliError(f"the service did not scale to {count} workers within {_TIMEOUT} seconds")
    return time.monotonic() - begun
