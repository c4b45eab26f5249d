"""Monitor a service from outside: its processes, the state of its workers, and its logs."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import requests

from densenet.background import repeating
from densenet.chaos.leak_check import FRONT_END, Sample
from densenet.polling import wait_until
from densenet.service import management
from densenet.service.log_reader import Tail
from densenet.service.torchserve import Service, private_memory, worker_processes
from export.console import CliError

_LEVEL = re.compile(r"^\S+ (WARN|ERROR) +\S+ (.*?) *$(?=\n?(.*))", re.MULTILINE)
_WORKER_FAILURE = re.compile(r"unexpected failure: .+$|Backend worker process died.*$|Killed.*$", re.MULTILINE)
_SERVER_ERROR = re.compile(r'"POST \S+ HTTP/1\.1" 5\d\d')
_MAX_LINES, _MAX_LENGTH = 3, 160


def within(seconds: float, condition: Callable[[], bool]) -> float | None:
    """Poll a condition; return the time.monotonic() at which it first held, or None if it never did."""
    return time.monotonic() if wait_until(condition, seconds) else None


def healthy(service: Service, gone: int | None = None) -> bool:
    """Return whether TorchServe reports all requested workers as ready and the process `gone` no longer exists."""
    running = {process.pid for process in worker_processes(service)}
    if gone in running:
        return False
    try:
        model = management.describe(service)
    except (requests.RequestException, ValueError, LookupError, CliError):
        return False
    return (
        model is not None and model.ready >= model.min_workers and {w.pid for w in model.workers if w.ready} <= running
    )


class Log:
    """The new lines of a service's logs, as an operator reads them."""

    def __init__(self, service: Service) -> None:
        self._tail = Tail(Path(service.logs), ("ts_log.log", "model_log.log", "access_log.log"))

    def warnings(self) -> list[str]:
        """Return the first few distinct lines of each log that report a problem."""
        return [
            *warnings(self._tail.new("ts_log.log")),
            *matches(self._tail.new("model_log.log"), _WORKER_FAILURE),
            *matches(self._tail.new("access_log.log"), _SERVER_ERROR),
        ]


def matches(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Return the first few distinct matches of a pattern, truncated."""
    return list(dict.fromkeys(match[:_MAX_LENGTH] for match in pattern.findall(text)))[:_MAX_LINES]


def warnings(text: str) -> list[str]:
    """Return the first few distinct warnings and errors of ts_log.log, joining a message with the line above it."""
    lines = (
        f"{match[1]} {match[2]}{' ' + match[3] if match[2].endswith('-') else ''}" for match in _LEVEL.finditer(text)
    )
    return list(dict.fromkeys(line[:_MAX_LENGTH] for line in lines))[:_MAX_LINES]


def one_worker(service: Service) -> psutil.Process:
    """Return any worker of the service.

    Raises: CliError if it has none.
    """
    workers = worker_processes(service)
    if not workers:
        raise CliError("the service has no worker; see its logs")
    return workers[0]


@contextmanager
def sampling(service: Service, every: float) -> Iterator[list[Sample]]:
    """Sample the front end and every worker periodically until the end of the block. every: seconds."""
    samples: list[Sample] = []
    begun = time.monotonic()
    names = {service.pid: FRONT_END}
    names |= {worker.pid: f"worker {number}" for number, worker in enumerate(worker_processes(service), 1)}

    def sample() -> None:
        for pid, name in names.items():
            with suppress(psutil.Error):  # dead workers are reported elsewhere
                samples.append(_sample(psutil.Process(pid), name, time.monotonic() - begun))

    with repeating(sample, every):
        yield samples


def _sample(process: psutil.Process, name: str, seconds: float) -> Sample:
    memory = private_memory(process) / 1e6
    return Sample(round(seconds, 1), name, round(memory, 1), process.num_fds(), process.num_threads())
