"""An nginx of ours: its configuration filled in, checked, started, changed while it runs, and ended without losing a
request."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from export.console import Problem

_RELOAD = 5  # seconds for new workers to take over; SIGTERM waits for it
_NAME = re.compile(r"\$\{([A-Z_]+)\}")  # nginx's own variables are in lower case


def fill(template: Path, values: Mapping[str, str]) -> str:
    """The template with a value for every ${NAME}, as envsubst would do it; a name without one is a KeyError."""
    return _NAME.sub(lambda match: values[match[1]], template.read_text(encoding="utf-8"))


def program() -> str:
    """The nginx of this machine. Raises Problem where there is none."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Problem("nginx is not installed; on Debian: apt-get install nginx-light")
    return found


class Nginx:
    """One master process with its workers, and the configuration that it runs on."""

    def __init__(self, name: str, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{name}.conf"
        self._program = program()
        self._process: subprocess.Popen[bytes] | None = None
        self._running = ""
        self.unsettled = False  # it has been told of a configuration, and has not gone over to it in time

    def run(self, configuration: str, *, anew: bool = False) -> None:
        """Starts with this configuration, or goes over to it: new workers take over, old ones finish what they have.

        anew: also where it is the one that runs. Returns from going over when every new connection is the new workers'.
        Raises Problem where nginx refuses it, and nothing has changed, or where it takes too long over it: `unsettled`.
        """
        if configuration == self._running and not anew:
            return
        self.unsettled = False
        self._check(configuration)
        self._write(self._path, configuration)
        self._running = ""
        if self._process is None:
            # A process group of its own: Ctrl-C is for us to pass on, and what is left of it can be ended.
            command = self._command(self._path)
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        else:
            self.unsettled = True
            self._reload(self._process)
            self.unsettled = False
        self._running = configuration

    def ended(self) -> bool:
        """Whether the master process has ended."""
        return self._process is not None and self._process.poll() is not None

    def finish(self, seconds: float) -> None:
        """Takes no new requests, finishes those in flight within `seconds`, and ends."""
        self._end(signal.SIGQUIT, seconds)

    def kill(self) -> None:
        """Ends at once."""
        self._end(signal.SIGTERM, 5)

    @staticmethod
    def _reload(master: "subprocess.Popen[bytes]") -> None:
        # For a moment, while new workers start, old ones accept connections beside them.
        old = _accepting(master.pid)
        master.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + _RELOAD
        while old & _accepting(master.pid) and master.poll() is None:
            if time.monotonic() > deadline:
                raise Problem("nginx has not taken up its configuration yet; what it said stands above")
            time.sleep(0.02)

    def _end(self, number: int, seconds: float) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()
        with contextlib.suppress(ProcessLookupError):  # workers outlive a master that was killed, and keep its port
            os.killpg(self._process.pid, signal.SIGKILL)

    def _check(self, configuration: str) -> None:
        candidate = self._path.with_suffix(".candidate")
        self._write(candidate, configuration)
        done = subprocess.run([*self._command(candidate), "-q", "-t"], capture_output=True, text=True, check=False)
        candidate.unlink()
        if done.returncode:
            raise Problem(f"nginx refuses its configuration: {' '.join(done.stderr.split())}")

    def _command(self, configuration: Path) -> list[str]:
        return [self._program, "-p", str(self._folder), "-e", "stderr", "-c", str(configuration)]

    def _write(self, path: Path, configuration: str) -> None:
        path.touch(mode=0o600)  # it holds keys
        path.write_text(configuration, encoding="utf-8")


def _accepting(master: int) -> set[psutil.Process]:
    """The processes of nginx but for those that say in their title that they take no more connections."""
    try:
        return {child for child in psutil.Process(master).children() if "shutting down" not in _title(child)}
    except psutil.NoSuchProcess:
        return set()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return "shutting down"
