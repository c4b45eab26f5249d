"""Watching: a service's processes, its workers' state and its log, from outside."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import requests

from densenet.chaos.leak_check import FRONT_END, Sample
from densenet.service import management
from densenet.service.log_reader import Tail
from densenet.service.torchserve import Service, private_memory, worker_processes
from export.console import Problem

_LEVEL = re.compile(r"^\S+ (WARN|ERROR) +\S+ (.*?) *$(?=\n?(.*))", re.MULTILINE)
_OF_WORKERS = re.compile(r"unexpected failure: .+$|Backend worker process died.*$|Killed.*$", re.MULTILINE)
_OF_ANSWERS = re.compile(r'"POST \S+ HTTP/1\.1" 5\d\d')
_MOST_LINES, _LONGEST = 3, 160
_POLL = 0.05


def within(seconds: float, condition: Callable[[], bool]) -> float | None:
    """The moment, by time.monotonic(), at which a condition was first seen to hold; None where it never did."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return time.monotonic()
        time.sleep(_POLL)
    return None


def whole(service: Service, gone: int | None = None) -> bool:
    """Whether as many workers as are wanted have loaded the model, by TorchServe's word, and the one killed is gone."""
    there = {process.pid for process in worker_processes(service)}
    if gone in there:
        return False
    try:
        model = management.describe(service)
    except (requests.RequestException, ValueError, LookupError, Problem):
        return False
    return model is not None and model.ready >= model.wanted and {w.pid for w in model.workers if w.ready} <= there


class Log:
    """The logs of a service from now on, as an operator reads them."""

    def __init__(self, service: Service) -> None:
        self._tail = Tail(Path(service.logs), ("ts_log.log", "model_log.log", "access_log.log"))

    def warnings(self) -> list[str]:
        """Of each log the first few different lines that tell of something wrong."""
        return [
            *warnings(self._tail.new("ts_log.log")),
            *telling(self._tail.new("model_log.log"), _OF_WORKERS),
            *telling(self._tail.new("access_log.log"), _OF_ANSWERS),
        ]


def telling(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The first few different matches of a pattern, cut short."""
    return list(dict.fromkeys(found[:_LONGEST] for found in pattern.findall(text)))[:_MOST_LINES]


def warnings(text: str) -> list[str]:
    """Of a log in our format; a message that begins on the line after its head is told with it."""
    found = (
        f"{match[1]} {match[2]}{' ' + match[3] if match[2].endswith('-') else ''}" for match in _LEVEL.finditer(text)
    )
    return list(dict.fromkeys(line[:_LONGEST] for line in found))[:_MOST_LINES]


def one_worker(service: Service) -> psutil.Process:
    """Any of its workers. Raises Problem where there is none."""
    found = worker_processes(service)
    if not found:
        raise Problem("the service has no worker")
    return found[0]


@contextmanager
def sampling(service: Service, every: float) -> Iterator[list[Sample]]:
    """Looks at the front end and every worker again and again, until the end of the block."""
    samples: list[Sample] = []
    over, begun = threading.Event(), time.monotonic()
    names = {service.pid: FRONT_END}
    names |= {worker.pid: f"worker {number}" for number, worker in enumerate(worker_processes(service), 1)}

    def look() -> None:
        while not over.wait(every):
            for pid, name in names.items():
                with suppress(psutil.Error):  # a worker that died is told of elsewhere
                    samples.append(_look(psutil.Process(pid), name, time.monotonic() - begun))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _look(process: psutil.Process, name: str, seconds: float) -> Sample:
    memory = private_memory(process) / 1e6
    return Sample(round(seconds, 1), name, round(memory, 1), process.num_fds(), process.num_threads())
