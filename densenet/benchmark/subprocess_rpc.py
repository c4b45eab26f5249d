"""Run functions in a subprocess and receive their results over a connection."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import spawn
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from export.console import CliError

P = ParamSpec("P")
T = TypeVar("T")
_GRACE = 10  # seconds for a process to exit by itself


@contextmanager
def start(function: Callable[..., None], *arguments: object) -> Iterator[Connection]:
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


@contextmanager
def using(python: Path) -> Iterator[None]:
    """Start the processes of the block with this Python."""
    before = spawn.get_executable()
    spawn.set_executable(str(python))
    try:
        yield
    finally:
        spawn.set_executable(before)


def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process, so that its imports and memory are released afterwards.

    Raises: CliError with the reason if the function fails.
    """
    with start(_send_result, function, args, kwargs) as connection:
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
