"""Processes: started for one purpose, and ended with the block that needs them, whatever happens in it."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import psutil

from export.console import Problem

P = ParamSpec("P")
T = TypeVar("T")
_GRACE = 10  # seconds for a process to end by itself
_STILL = 0.5  # seconds without work after which a process counts as idle


@contextmanager
def program(module: str, *arguments: str, log: Path, **environment: str) -> Iterator[psutil.Process]:
    """`python -m module arguments`, and all its children, for as long as the block.

    log: takes its output.
    """
    inherited = os.environ | environment
    command = [sys.executable, "-m", module, *arguments]
    with log.open("wb") as output:
        # In a session of its own: Ctrl-C is for this process, which then ends the others in order.
        started = subprocess.Popen(
            command, env=inherited, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield psutil.Process(started.pid)
    finally:
        _end(started)


def run(module: str, *arguments: str, log: Path, **environment: str) -> None:
    """`python -m module arguments` to its end. Raises Problem with the last line that it printed when it fails."""
    with program(module, *arguments, log=log, **environment) as process:
        if process.wait():
            raise Problem(f"{module} failed: {last_line(log)}")


def last_line(log: Path) -> str:
    """What a program said last, which of a traceback is its reason."""
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


@contextmanager
def conversation(function: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """A fresh process that runs function(connection, *arguments); the other end of its connection."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_undisturbed, args=(function, there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join(_GRACE)
        process.kill()
        process.join()


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """function(*args, **kwargs) in a fresh process, whose imports and memory are gone afterwards. Raises Problem."""
    with conversation(_answer, function, args, kwargs) as connection:
        result: T = receive(connection)
        return result


def receive(connection: Connection) -> Any:
    """What the other side of a conversation answers. Raises Problem with the reason where it failed."""
    try:
        answer = connection.recv()
    except EOFError as error:
        raise Problem("a process ended before it answered") from error
    if isinstance(answer, Problem):
        raise answer
    return answer


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_until(ready: Callable[[], bool], process: psutil.Process, *, seconds: float, log: Path) -> None:
    """Returns once ready() is true. Raises Problem when the process ends before, or takes longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise Problem(f"it ended at once: {last_line(log)}")
        time.sleep(0.1)
    raise Problem(f"it was not ready within {seconds:.0f} seconds: {last_line(log)}")


def wait_until_idle(process: psutil.Process, *, seconds: float = 60) -> None:
    """Returns once a program and its children compute nothing any more: all of them have loaded what they need."""
    deadline = time.monotonic() + seconds
    before = _cpu_seconds(process)
    while time.monotonic() < deadline:
        time.sleep(_STILL)
        now = _cpu_seconds(process)
        if now - before < _STILL / 20:
            return
        before = now


def _cpu_seconds(process: psutil.Process) -> float:
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def _undisturbed(function: Callable[..., None], connection: Connection, *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the connection instead
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # of warnings and progress bars; what matters goes over the connection
        os.dup2(silence, stream)
    with suppress(EOFError, BrokenPipeError):
        function(connection, *arguments)


def _answer(
    connection: Connection, function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> None:
    try:
        connection.send(function(*args, **kwargs))
    except Exception as error:  # whatever it is, it is told on the other side
        connection.send(problem(error))


def problem(error: Exception) -> Problem:
    """What can be sent of an exception: some of those of other packages cannot."""
    return error if isinstance(error, Problem) else Problem(f"{type(error).__name__}: {error}")


def _end(started: "subprocess.Popen[bytes]") -> None:
    with suppress(psutil.NoSuchProcess):
        left = [process := psutil.Process(started.pid), *process.children(recursive=True)]
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(signal_number)
            _, left = psutil.wait_procs(left, timeout=_GRACE)
    started.wait()
