"""Environment of a service under test: small disks and checkouts."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from densenet.chaos.plan import Skipped
from densenet.paths import ROOT
from densenet.service import temporary_instance

_PACKAGES = ("densenet", "export", "handler")
_COMMAND = (sys.executable, "-P", "-m", "densenet")
_TIMEOUT = 120  # seconds for a command that is expected to fail


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of the given size in memory.

    Raises: Skipped if it cannot be mounted.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise Skipped("only root can mount a small file system")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"this machine cannot mount a small file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Checkout:
    """A copy of this repository's code with an archive in its model store, in which commands can run."""

    def __init__(self, root: Path, archive: Path) -> None:
        self.root = root
        root.mkdir()
        for package in _PACKAGES:
            shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
        for path in ROOT.iterdir():
            if path.is_file() and not path.name.startswith(".venv"):
                shutil.copyfile(path, root / path.name)
        self.archive = root / "model_store" / "densenet.mar"
        self.archive.parent.mkdir()
        shutil.copyfile(archive, self.archive)
        self.port = temporary_instance.on_free_ports(archive).port
        self._inside: dict[str, Any] = {"cwd": root, "env": {**os.environ, "PYTHONPATH": str(root)}}

    def start(self, *options: str) -> "subprocess.Popen[str]":
        """Start scripts/serve, without creating .venv, and return the running process."""
        return subprocess.Popen(
            [*_COMMAND, "serve", "--port", str(self.port), *options],
            **self._inside,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def serve(self, *options: str) -> Iterator["subprocess.Popen[str]"]:
        """Start scripts/serve and kill it at the end of the block if it still runs."""
        process = self.start(*options)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def run_to_end(self, *options: str) -> tuple[int, list[str]]:
        """Run scripts/serve until it exits; return its exit status and the lines that it printed."""
        with self.serve(*options) as process:
            output, errors = process.communicate(timeout=_TIMEOUT)
            return process.returncode, [line for line in (output + errors).splitlines() if line.strip()]

    def stop(self) -> None:
        """Run scripts/stop."""
        subprocess.run([*_COMMAND, "stop"], **self._inside, capture_output=True, check=True, timeout=_TIMEOUT)
