"""Processes that end with the block that started them, and functions that run in a subprocess."""

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

from export.console import CliError

P = ParamSpec("P")
T = TypeVar("T")
_GRACE = 10  # seconds for a process to exit by itself
_IDLE_INTERVAL = 0.5  # seconds without work after which a process counts as idle


@contextmanager
def program(module: str, *arguments: str, log: Path, **environment: str) -> Iterator[psutil.Process]:
    """Run `python -m module arguments` for the duration of the block, then end it and its children.

    log: file for its output.
    """
    inherited = os.environ | environment
    command = [sys.executable, "-m", module, *arguments]
    with log.open("wb") as output:
        # Its own session keeps Ctrl-C away from it; this process handles Ctrl-C and ends the others in order.
        started = subprocess.Popen(
            command, env=inherited, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield psutil.Process(started.pid)
    finally:
        _end(started)


def run(module: str, *arguments: str, log: Path, **environment: str) -> None:
    """Run `python -m module arguments` to its end.

    Raises: CliError with the last line that it printed if it fails.
    """
    with program(module, *arguments, log=log, **environment) as process:
        if process.wait():
            raise CliError(f"{module} failed: {last_line(log)}")


def last_line(log: Path) -> str:
    """Return the last line that a program printed; in a traceback that is the reason."""
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


@contextmanager
def subprocess_rpc(function: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run function(connection, *arguments) in a new process; yield the other end of its connection."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run_silently, args=(function, there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join(_GRACE)
        process.kill()
        process.join()


def run_in_subprocess(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process, so that its imports and memory are released afterwards.

    Raises: CliError with the reason if the function fails.
    """
    with subprocess_rpc(_send_result, function, args, kwargs) as connection:
        result: T = receive(connection)
        return result


def receive(connection: Connection) -> Any:
    """Receive a result from the subprocess.

    Raises: CliError with the reason if the subprocess failed.
    """
    try:
        answer = connection.recv()
    except EOFError as error:
        raise CliError("a subprocess ended before it sent a result") from error
    if isinstance(answer, CliError):
        raise answer
    return answer


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_until(ready: Callable[[], bool], process: psutil.Process, *, seconds: float, log: Path) -> None:
    """Wait until ready() is true.

    Raises: CliError if the process ends before, or after the given seconds.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise CliError(f"the process ended before it was ready: {last_line(log)}")
        time.sleep(0.1)
    raise CliError(f"the process was not ready within {seconds:.0f} seconds: {last_line(log)}")


def wait_until_idle(process: psutil.Process, *, seconds: float = 60) -> None:
    """Wait until a program and its children use no CPU, which means that all of them have finished loading."""
    deadline = time.monotonic() + seconds
    before = _cpu_seconds(process)
    while time.monotonic() < deadline:
        time.sleep(_IDLE_INTERVAL)
        now = _cpu_seconds(process)
        if now - before < _IDLE_INTERVAL / 20:
            return
        before = now


def _cpu_seconds(process: psutil.Process) -> float:
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system
    return total


def _run_silently(function: Callable[..., None], connection: Connection, *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the connection instead
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # discard warnings and progress bars; results go over the connection
        os.dup2(silence, stream)
    with suppress(EOFError, BrokenPipeError):
        function(connection, *arguments)


def _send_result(
    connection: Connection, function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> None:
    try:
        connection.send(function(*args, **kwargs))
    except Exception as error:  # every error must reach the parent process
        connection.send(to_cli_error(error))


def to_cli_error(error: Exception) -> CliError:
    """Convert an exception to a CliError, because some packages' exceptions cannot be pickled."""
    return error if isinstance(error, CliError) else CliError(f"{type(error).__name__}: {error}")


def _end(started: "subprocess.Popen[bytes]") -> None:
    with suppress(psutil.NoSuchProcess):
        remaining = [process := psutil.Process(started.pid), *process.children(recursive=True)]
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for process in remaining:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal_number)
            _, remaining = psutil.wait_procs(remaining, timeout=_GRACE)
    started.wait()
