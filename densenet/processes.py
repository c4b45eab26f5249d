"""Programs that run beside this process: start them, wait until they are ready, and end them with their children."""

import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from densenet.polling import wait_until
from export.console import CliError

_GRACE = 10  # seconds for a process to exit after a signal
_IDLE_INTERVAL = 0.5  # seconds without work after which a process counts as idle


def start(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start a program whose output goes to a file. environment: all its variables; by default this process's.

    Its own session keeps Ctrl-C away from it: this process handles Ctrl-C and ends the others in order.
    """
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, *, grace: float = _GRACE
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program for the duration of the block; the arguments are those of `start` and `end`."""
    process = start(command, log, environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            end(psutil.Process(process.pid), grace)
        process.wait()


def run(module: str, *arguments: str, log: Path, **environment: str) -> None:
    """Run `python -m module arguments` to its end.

    Raises: CliError with the last line that it printed if it fails.
    """
    with running([sys.executable, "-m", module, *arguments], log, os.environ | environment) as process:
        if process.wait():
            raise CliError(f"{module} failed: {last_line(log)}")


def end(root: psutil.Process, grace: float = _GRACE) -> None:
    """Terminate a process, then the descendants that it leaves behind, and kill what still runs.

    grace: seconds for the process to exit and to end its descendants itself.
    """
    everything = _family(root)
    _signal([root], signal.SIGTERM)
    _wait([root], grace)
    _signal(everything, signal.SIGTERM)
    _wait(everything, _GRACE)
    _kill(everything)


def end_when(is_done: Callable[[], bool], root: psutil.Process, grace: float) -> None:
    """Terminate a process, and kill it and its descendants as soon as is_done() returns true, or after the grace.

    grace: in seconds.
    """
    everything = _family(root)
    _signal([root], signal.SIGTERM)
    wait_until(lambda: is_done() or is_over(root), grace)
    _kill(everything)


def _family(root: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [root, *root.children(recursive=True)]
    return [root]


def _signal(members: Sequence[psutil.Process], number: int) -> None:
    for member in members:
        with suppress(psutil.Error):
            member.send_signal(number)


def _kill(members: Sequence[psutil.Process]) -> None:
    _signal(members, signal.SIGKILL)
    _wait(members, _GRACE)


def _wait(members: Sequence[psutil.Process], seconds: float) -> None:
    wait_until(lambda: all(map(is_over, members)), seconds)


def is_over(process: psutil.Process) -> bool:
    """Return whether a process has ended; as a zombie it waits for its parent, which may take seconds to reap it."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def last_line(log: Path) -> str:
    """Return the last line that a program printed; in a traceback that is the reason."""
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def wait_until_ready(
    is_ready: Callable[[], object], process: "subprocess.Popen[bytes]", *, seconds: float, log: Path
) -> None:
    """Wait until is_ready() returns a true value.

    Raises: CliError if the process ends before, or after the given seconds.
    """

    def ready() -> bool:
        if is_ready():
            return True
        if process.poll() is not None:
            raise CliError(f"the process ended before it was ready: {last_line(log)}")
        return False

    if not wait_until(ready, seconds):
        raise CliError(f"the process was not ready within {seconds:.0f} seconds: {last_line(log)}")


def wait_until_idle(process: psutil.Process, *, seconds: float = 60) -> None:
    """Wait until a program and its children use no CPU, which means that all of them have finished loading."""
    before = -math.inf

    def idle() -> bool:
        nonlocal before
        earlier, before = before, cpu_seconds(process)
        return before - earlier < _IDLE_INTERVAL / 20

    wait_until(idle, seconds, _IDLE_INTERVAL)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and its descendants, including those that ended and were waited for."""
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += sum(member.cpu_times()[:4])  # its own and its ended children's, in user and in system mode
    return total


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def check_port(host: str, port: int) -> None:
    """Check that this machine can listen on an address.

    Raises: OSError if another program listens there, or the address is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
