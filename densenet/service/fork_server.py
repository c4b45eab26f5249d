"""Fork server: a process that has imported what every worker imports, and becomes a worker for each that is requested.

    python -P fork_server.py LISTENER PID MODULES ROOM

LISTENER is the descriptor of a listening socket, PID the process id of TorchServe's front end, MODULES what to import,
and ROOM makes the command line long enough for a worker's. The launcher (worker_launcher.py) starts it, and says why.
Workers share the memory of what is imported here, as long as none of them writes to it, and do not import it again.

What does not survive fork() must not happen here: no thread may start, so no operator may run that uses several, and no
GPU may be used. The archive's own modules are not imported either, because each version has its own.

When the front end ends, the fork server ends with all workers. When it is killed, the workers go on without it.
"""

import ctypes
import fcntl
import gc
import importlib
import marshal
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_DESCRIPTORS = 4  # standard input, output and error, and the pipe that the launcher holds open
_SECONDS = 10.0  # for a launcher to send its request


@dataclass(frozen=True)
class Request:
    """A worker to become."""

    arguments: Sequence[str]
    folder: str
    environment: dict[str, str]
    descriptors: Sequence[int]
    connection: socket.socket
    """Open in the fork server and in the worker: it closes when both have ended."""


class ForkServer:
    """The processes that were made, and what they were made for."""

    def __init__(self, listener: socket.socket, front_end: int) -> None:
        self._listener = listener
        self._front_end = os.pidfd_open(front_end)
        self._workers: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that tells of their end
        self._poll = select.poll()
        for descriptor in (listener.fileno(), self._front_end):
            self._poll.register(descriptor, select.POLLIN)

    def serve(self) -> Request | None:
        """Make workers until the front end ends. Return None then, and the request in a process that is a worker."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._front_end:
                    self._kill_workers()
                    return None
                if descriptor != self._listener.fileno():
                    self._report_exit(descriptor)
                elif request := self._accept():
                    return request

    def _accept(self) -> Request | None:
        connection, _ = self._listener.accept()
        try:
            request = _receive(connection)
        except (OSError, EOFError, ValueError, TypeError, KeyError):  # its launcher has ended
            connection.close()
            return None
        pid = os.fork()
        if not pid:
            self._close()
            return request
        for descriptor in request.descriptors:
            os.close(descriptor)
        descriptor = os.pidfd_open(pid)
        self._poll.register(descriptor, select.POLLIN)
        self._workers[descriptor] = pid, connection
        _send(connection, b"+")
        return None

    def _report_exit(self, descriptor: int) -> None:
        """Pass a worker's exit status on to its launcher, as a shell has it."""
        pid, connection = self._workers.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        _send(connection, b"%d\n" % (code if code >= 0 else 128 - code))
        connection.close()

    def _close(self) -> None:
        """Close in a worker what is the fork server's."""
        self._listener.close()
        os.close(self._front_end)
        for descriptor, (_, connection) in self._workers.items():
            os.close(descriptor)
            connection.close()

    def _kill_workers(self) -> None:
        for pid, _ in self._workers.values():  # one that hangs would not notice
            os.kill(pid, signal.SIGKILL)


def _receive(connection: socket.socket) -> Request:
    connection.settimeout(_SECONDS)
    head, descriptors, _, _ = socket.recv_fds(connection, 4, _DESCRIPTORS)
    try:
        content, length = bytearray(), int.from_bytes(head, "big")
        while len(content) < length and (part := connection.recv(length - len(content))):
            content += part
        document = marshal.loads(content)
        return Request(document["arguments"], document["folder"], document["environment"], descriptors, connection)
    except (OSError, EOFError, ValueError, TypeError, KeyError):
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _send(connection: socket.socket, content: bytes) -> None:
    with suppress(OSError):  # the launcher has ended, which ends its worker
        connection.send(content)


def become(request: Request) -> None:
    """Run a worker's program in this process, as the interpreter would.

    Raises:
        SystemExit: with the program's exit status.
    """
    *standard, alive = request.descriptors
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    _end_with(alive)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    program, *_ = sys.argv = list(request.arguments)
    modules = request.environment.get("PYTHONPATH", "")
    sys.path[:0] = [str(Path(program).parent), *map(os.path.abspath, filter(None, modules.split(os.pathsep)))]
    _set_command_line([sys.executable, *request.arguments])
    if random := sys.modules.get("numpy.random"):  # Python's own generator is seeded anew by fork()
        random.seed()
    gc.enable()
    runpy.run_path(program, run_name="__main__")


def _end_with(alive: int) -> None:
    """Let the kernel kill this process when the launcher ends, even if it hangs or is stopped.

    alive: a pipe that only the launcher has open for writing, and that it never writes to.
    """
    fcntl.fcntl(alive, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(alive, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(alive, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([alive], [], [], 0)[0]:  # it has ended already
        os.kill(os.getpid(), signal.SIGKILL)


def _command_line() -> tuple[int, int]:
    """Return the first address of this process's command line, and the one after the last."""
    numbers = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()  # begins with the third number
    return int(numbers[48 - 3]), int(numbers[49 - 3])


def _set_command_line(words: Sequence[str]) -> None:
    """Make this process's command line that of a worker, from which commands know it."""
    begin, end = _command_line()
    text = "\0".join(words).encode(errors="surrogateescape")[: end - begin - 1]
    ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)


def main(listener: int, front_end: int, modules: Sequence[str]) -> None:
    """Import everything, and make workers until the front end ends."""
    os.set_inheritable(listener, False)
    gc.disable()  # what it freed would leave gaps, which workers would fill and so no longer share
    server = ForkServer(socket.socket(fileno=listener), front_end)
    if os.getppid() != front_end:  # it has ended, and the number may be another process's
        return
    if not all(_command_line()):  # a system that only resembles Linux
        raise OSError("the system does not tell where the command line lies")
    for name in modules:
        with suppress(ImportError):  # a worker that needs it fails, and says so
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a worker's collections do not write to these objects
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)  # the first launcher's until here
    os.close(nothing)
    if request := server.serve():
        become(request)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","))
