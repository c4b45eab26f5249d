"""Containers without an engine: the image's files, read-only, its entry point run in a network namespace of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from densenet import processes
from tests import dockerfile

_ABLE = os.geteuid() == 0 and all(map(shutil.which, ("ip", "nsenter", "mount")))
wants_namespaces = pytest.mark.skipif(
    not _ABLE and os.environ.get("DENSENET_SYSTEM") != "required", reason="needs root, iproute2 and util-linux"
)
_READY = 300  # seconds
# Whatever the tree holds is read-only; what the image may write to is bound over it. /tmp is as Docker mounts it.
_MOUNTS = 'mount -t tmpfs -o noexec,nosuid,nodev tmpfs "$TMPDIR" '
_MOUNTS += '&& mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && mount --bind "$2" "$1/.run" '
_MOUNTS += '&& mount --bind "$3" "$1/logs" && cd "$1" && shift 3 && exec "$@"'


@contextlib.contextmanager
def namespace(number: int) -> Iterator[tuple[str, str]]:
    """A network namespace and its address, which this machine reaches over a cable of its own."""
    name, ours, theirs = f"densenet-{os.getpid()}-{number}", f"10.203.{number}.1", f"10.203.{number}.2"
    cable = f"dn{number}-{os.getpid()}"[:15]
    _ip("netns", "add", name)
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("address", "add", f"{ours}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        _ip("-n", name, "address", "add", f"{theirs}/30", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        yield name, theirs
    finally:
        _ip("netns", "delete", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@dataclass
class Container:
    """One container of the image in a namespace: started, asked, signalled, and looked at from outside."""

    namespace: str
    address: str
    folder: Path
    command: Sequence[str]
    temporary: Path
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def place(self, name: str) -> Path:
        """What it may write to in its tree: .run, logs."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def start(self) -> None:
        places = [str(self.folder / "tree"), *(str(self.place(name)) for name in (".run", "logs"))]
        command = [sys.executable, *self.command[1:]]
        inside = ["ip", "netns", "exec", self.namespace, "sh", "-c", _MOUNTS, "sh", *places, *command]
        self._process = processes.start(inside, self.folder / "output", self._environment())

    def run(self, command: Sequence[str], stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
        """A command within the running container, as a probe is."""
        words, environment = self._inside(command), self._environment()
        done = subprocess.run(words, env=environment, input=stdin, capture_output=True, timeout=60, check=False)
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextlib.contextmanager
    def beside(self, command: Sequence[str]) -> Iterator[None]:
        """Another container of the same pod, for as long as the block."""
        log = self.folder / "beside"
        with processes.running(self._inside(command), log, self._environment(), grace=60) as process:
            yield
            assert process.poll() is None, log.read_text()

    def _inside(self, command: Sequence[str]) -> list[str]:
        assert self._process
        program = sys.executable if command[0] == "python" else command[0]
        inside = ["nsenter", f"--target={self._process.pid}", "--mount", "--net"]
        return [
            *inside,
            "sh",
            "-c",
            'cd "$1" && shift && exec "$@"',
            "sh",
            str(self.folder / "tree"),
            program,
            *command[1:],
        ]

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            # It says so a moment after a worker does; only then it drains when it is stopped.
            return " is up: " in self.output() and self.run(dockerfile.health_check()).returncode == 0

        assert self._process
        processes.wait_until_ready(is_ready, self._process, seconds=_READY, log=self.folder / "output")

    def output(self) -> str:
        """What the present start has said."""
        return (self.folder / "output").read_text()

    def processes(self) -> list[psutil.Process]:
        """All that run in the namespace."""
        done = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True)
        found = []
        for pid in done.stdout.split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def signal_all(self, number: signal.Signals) -> None:
        """To every process at once, as when the machine dies, or stands still."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, as an engine sends it; its exit status."""
        assert self._process
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=90)

    def end(self) -> None:
        """SIGKILL to all of it, and to what one of them may have started meanwhile."""
        while self.processes():
            self.signal_all(signal.SIGKILL)
            time.sleep(0.05)
        if self._process:
            self._process.wait(timeout=30)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "JAVA_HOME", "LANG")}
        return kept | {"TMPDIR": str(self.temporary), "PYTHONPATH": str(self.folder / "tree"), "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def container(number: int, archive: Path, folder: Path, *arguments: str, inference: str = "") -> Iterator[Container]:
    """One of the image with these arguments, and without measuring batches, which takes seconds.

    inference: where TorchServe listens, other than on loopback.
    """
    # Not in `folder`: the paths of workers' sockets are limited to 107 characters.
    with namespace(number) as (name, address), tempfile.TemporaryDirectory(prefix="pod-") as temporary:
        dockerfile.unpack(archive, folder / "tree")
        properties = folder / "tree" / "deploy" / "config.properties"
        text = properties.read_text()
        assert "inference_address=http://127.0.0.1:8080" in text
        if inference:
            properties.write_text(text.replace("http://127.0.0.1:8080", inference.format(address=address)))
        made = Container(
            name, address, folder, [*dockerfile.entry_point(), "--batch-size", "1", *arguments], Path(temporary)
        )
        try:
            yield made
        finally:
            made.end()
