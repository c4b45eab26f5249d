"""Launcher: what TorchServe starts as a worker, to get one from the fork server (fork_server.py) in its place.

    python -I -S worker_launcher.py FOLDER MODULES model_service_worker.py ARGUMENT…

TorchServe starts a program for each worker, reads its output, waits for its end, and kills it when the worker must
end. The launcher hands its own input and output to a process that the fork server makes, becomes a small shell that
ends with that process's status, and holds the one end of a pipe whose closing kills that process. The first launcher of
a service starts the fork server. Where there is none to be had, the launcher becomes the worker itself.

It imports little and nothing of ours, because its start is a part of every worker's.
"""

import fcntl
import marshal
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

VARIABLE = "DENSENET_FORK_SERVER"  # environment variable: `none` starts every worker by itself
_NONE = "none"
_SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fork_server.py")
_SOCKET = "fork-server"  # in the service's temporary folder, which only its user may read
# Seconds until a worker starts by itself. The fork server imports torch in 4 seconds, from a slow disk in 30, and
# TorchServe allows a worker 240 seconds.
_PATIENCE = 90
_ROOM = 64  # bytes by which a later worker's command line may be longer than the first one's

# The system call `clone` has no function in Python. Its number depends on the machine.
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE_PARENT = 0x8000

# The shell waits for a line with the exit status. Without one, the worker has outlived the fork server.
_WAIT = 'read -r status <&{} && exit "$status"; exit 1'

# What TorchServe's program for workers and the archive's modules import: packages, and of Pillow what it loads late.
_PLUGINS = ("Avif", "Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP")
MODULES = (
    *("torch", "numpy", "yaml", "markupsafe", "pillow_heif"),
    *("PIL.Image", "PIL.ImageCms", "PIL.ImageOps", *(f"PIL.{name}ImagePlugin" for name in _PLUGINS)),
    *("ts.arg_parser", "ts.async_service", "ts.model_loader"),
)


def command(folder: str, modules: Sequence[str] = MODULES) -> list[str]:
    """Return the command that starts a worker's program in a service.

    It is empty where workers must start by themselves: forking is unsafe on macOS, for one.

    folder: the service's temporary folder. modules: what the fork server imports.
    """
    if os.environ.get(VARIABLE) == _NONE or sys.platform != "linux" or os.uname().machine not in _CLONE:
        return []
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), folder, ",".join(modules)]


def main(folder: str, modules: str, arguments: Sequence[str]) -> None:
    """Become a worker: the shell that stands for one, or the worker itself. arguments: a program of Python's, and its.

    Raises:
        OSError: neither can be run.
    """
    try:
        connection, alive = _request(folder, modules, arguments)
    except OSError as error:
        print(f"the fork server does not answer ({error}); this worker starts by itself", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, *arguments])
    for descriptor in (connection, alive):
        os.set_inheritable(descriptor, True)
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    os.execve("/bin/sh", ["sh", "-c", _WAIT.format(connection), f"{folder}: a worker's launcher"], environment)


def _request(folder: str, modules: str, arguments: Sequence[str]) -> tuple[int, int]:
    """Get a worker. Return the descriptors that its exit status comes from, and whose closing kills it.

    Raises:
        OSError: there is no fork server, or it does not answer.
    """
    watched, alive = os.pipe()
    with _connect(folder, modules, arguments) as connection:
        document = {"arguments": list(arguments), "folder": os.getcwd(), "environment": dict(os.environ)}
        content = marshal.dumps(document)
        socket.send_fds(connection, [len(content).to_bytes(4, "big")], [0, 1, 2, watched])
        connection.sendall(content)
        if not connection.recv(1):
            raise ConnectionError("it has ended")
        connection.setblocking(True)
        os.close(watched)
        return connection.detach(), alive


def _connect(folder: str, modules: str, arguments: Sequence[str]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_PATIENCE)
    address = os.path.join(folder, _SOCKET)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            _start(address, modules, arguments)
            connection.connect(address)  # it is accepted as soon as everything is imported
    finally:
        os.close(lock)
    return connection


def _start(address: str, modules: str, arguments: Sequence[str]) -> None:
    """Start the fork server, which listens on the address."""
    if os.path.exists(address):  # the last one was killed
        os.unlink(address)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(128)
        # A worker shows its own command line, in place of the fork server's.
        room = len(" ".join(arguments).encode(errors="surrogateescape")) + _ROOM
        words = [sys.executable, "-P", _SERVER, str(listener.fileno()), str(os.getppid()), modules, " " * room]
        # The archive's modules are each worker's own.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        _start_sibling(words, environment, listener.fileno())


def _start_sibling(words: list[str], environment: Mapping[str, str], listener: int) -> None:
    """Start a program as a child of this process's parent, so that it belongs to TorchServe's processes for good."""
    import ctypes  # only the first launcher needs it

    # PyDLL does not release Python's lock, which the child would have to take again.
    pid = ctypes.PyDLL(None, use_errno=True).syscall(
        _CLONE[os.uname().machine], _CLONE_PARENT | signal.SIGCHLD, *[0] * 4
    )
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if pid:
        return
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):  # errors of its start are this worker's
            os.dup2(nothing, descriptor)
        os.set_inheritable(listener, True)
        os.execve(words[0], words, environment)
    finally:
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
