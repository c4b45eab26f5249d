"""Run an nginx: fill in its configuration, check it, start nginx, reload it and stop it without losing a request."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from densenet.polling import wait_until
from export.console import CliError

_RELOAD = 5  # seconds for new workers to take over; a SIGTERM to the gateway waits for that
_NAME = re.compile(r"\$\{([A-Z_]+)\}")  # nginx's own variables are in lower case, so they never match


def fill(template: Path, values: Mapping[str, str]) -> str:
    """Replace every ${NAME} in a template by its value, as envsubst does.

    Raises:
        KeyError: if a name has no value.
    """
    return _NAME.sub(lambda match: values[match[1]], template.read_text(encoding="utf-8"))


def program() -> str:
    """Return the path of this machine's nginx.

    Raises:
        CliError: if nginx is not installed.
    """
    path = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise CliError("nginx is not installed; on Debian: apt-get install nginx-light, on macOS: brew install nginx")
    return path


class Nginx:
    """One nginx master process with its workers, and its current configuration."""

    def __init__(self, name: str, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{name}.conf"
        self._program = program()
        self._process: subprocess.Popen[bytes] | None = None
        self._running = ""
        self.reload_pending = False  # whether nginx was sent a configuration and has not switched to it in time

    def run(self, configuration: str, *, force: bool = False) -> None:
        """Start nginx with this configuration, or reload it: new workers take over, old ones finish their requests.

        A reload returns once only the new workers accept connections.

        Args:
            force: reload even if the configuration has not changed.

        Raises:
            CliError: if nginx rejects the configuration and keeps the old one, or does not finish the reload in time;
                then `reload_pending` is true.
        """
        if configuration == self._running and not force:
            return
        self.reload_pending = False
        self._check(configuration)
        self._write(self._path, configuration)
        self._running = ""
        if self._process is None:
            # nginx gets its own process group, so that Ctrl-C reaches only this process, which then stops nginx in
            # order, and so that leftover workers can be killed with the group.
            command = self._command(self._path)
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        else:
            self.reload_pending = True
            self._reload(self._process)
            self.reload_pending = False
        self._running = configuration

    def settled(self) -> bool:
        """Whether no worker of an earlier configuration is still finishing requests."""
        return self._process is None or not _workers(self._process.pid) - _accepting(self._process.pid)

    def ended(self) -> bool:
        """Whether the master process has ended."""
        return self._process is not None and self._process.poll() is not None

    def finish(self, seconds: float) -> None:
        """Stop accepting requests, let those in flight finish within `seconds`, and end nginx."""
        self._end(signal.SIGQUIT, seconds)

    def kill(self) -> None:
        """End nginx immediately."""
        self._end(signal.SIGTERM, 5)

    @staticmethod
    def _reload(master: "subprocess.Popen[bytes]") -> None:
        # While the new workers start, the old ones still accept connections. Wait until none of the old ones does.
        old = _accepting(master.pid)
        master.send_signal(signal.SIGHUP)
        if not wait_until(lambda: not old & _accepting(master.pid) or master.poll() is not None, _RELOAD, 0.02):
            raise CliError(f"nginx has not reloaded within {_RELOAD:g} seconds; see its output above")

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
        with contextlib.suppress(ProcessLookupError):  # workers of a master that was killed would keep its port
            os.killpg(self._process.pid, signal.SIGKILL)

    def _check(self, configuration: str) -> None:
        candidate = self._path.with_suffix(".candidate")
        self._write(candidate, configuration)
        process = subprocess.run([*self._command(candidate), "-q", "-t"], capture_output=True, text=True, check=False)
        candidate.unlink()
        if process.returncode:
            raise CliError(f"nginx rejected its configuration: {_reason(process.stderr)}")

    def _command(self, configuration: Path) -> list[str]:
        return [self._program, "-p", str(self._folder), "-e", "stderr", "-c", str(configuration)]

    def _write(self, path: Path, configuration: str) -> None:
        path.touch(mode=0o600)  # the file contains keys
        path.write_text(configuration, encoding="utf-8")


def _reason(output: str) -> str:
    """Return the line of nginx's output that says what is wrong; the others say what follows from it."""
    lines = [line.partition("[emerg] ")[2] for line in output.splitlines()]
    return next(filter(None, lines), " ".join(output.split()))


def _accepting(master: int) -> set[psutil.Process]:
    """Return nginx's worker processes without those whose title says that they are shutting down."""
    return {child for child in _workers(master) if "shutting down" not in _title(child)}


def _workers(master: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(master).children())
    except psutil.NoSuchProcess:
        return set()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # the process has just ended
        return "shutting down"
