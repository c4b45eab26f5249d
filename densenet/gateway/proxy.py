"""Run the gateway's two nginxes, one for the clients and one behind it for the replicas, and reload changed files.

There are two because a replica's token may change every hour: only the second nginx reloads then, and the clients'
connections to the first one stay open.
"""

import contextlib
import grp
import os
import pwd
import resource
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType

from rich.console import Console

from densenet import __version__, processes
from densenet.gateway import api_keys, certificates, upstream_health, upstreams
from densenet.gateway.nginx import Nginx, fill
from densenet.gateway.upstreams import Replica, RunningTrial
from densenet.paths import NGINX_TEMPLATES
from densenet.polling import wait_until
from densenet.service import trial
from densenet.service.properties import host_and_port
from export.console import CliError, err, out
from handler.payload import OPTION_HEADERS

_FOLDERS = (Path("/dev/shm"), Path("/tmp"))  # in memory if possible; $TMPDIR can be too long for a socket's path
_USERS = ("www-data", "nginx", "nobody")
_CONNECTIONS = 8192  # of a worker process, open files allowing
_OPEN_MAX = 10240  # files; macOS reports no limit, but lets a process open no more
_PROCESSES = 2
# Request headers that a web page of another origin may send.
_CORS_HEADERS = (
    *("Authorization", "X-API-Key", "Content-Type", "Content-Encoding", "X-Request-Id", "traceparent"),
    "Inference-Header-Content-Length",
    *OPTION_HEADERS,
)
_POLL = 0.1  # seconds between checks of the files; TorchServe refuses an old token as soon as there is a new one
_START = 10  # seconds for nginx to listen


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits; the templates use the same names in upper case."""

    rate: int
    burst: int
    concurrent: int
    concurrent_each: int
    header_seconds: int
    body_seconds: int
    idle_seconds: int
    answer_seconds: int
    drain_seconds: int
    body_bytes: int
    ready_seconds: int = 10
    replay_seconds: int = 30

    def values(self) -> dict[str, str]:
        """Return the values for the templates."""
        limits = {name.upper(): str(value) for name, value in vars(self).items()}
        # The buffer is a fifth larger, since it also holds the framing of a chunked body.
        sizes = {"BUFFER_BYTES": str(self.body_bytes * 6 // 5), "BODY_LIMIT": f"{self.body_bytes / 2**20:g} MiB"}
        return limits | sizes


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the gateway listens, which clients it accepts, and which replicas it forwards to."""

    host: str
    port: int
    certificate: Path | None
    key: Path | None
    keys: Path | None
    upstreams: tuple[Replica, ...]
    ca: Path | None
    cors: tuple[str, ...]
    access_log: str
    limits: Limits

    @property
    def listen(self) -> str:
        """HOST:PORT in nginx's format."""
        return host_and_port(self.host, self.port)

    @property
    def files(self) -> Sequence[Path]:
        """The files to reload when they change."""
        tokens = [upstreams.key_file(replica) for replica in self.upstreams]
        return [path for path in (self.certificate, self.key, self.keys, self.ca, *tokens) if path]


class Gateway:
    """Both nginxes, configured from the settings and the current contents of the files."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._replicas = Nginx("replicas", folder)
        self._gateway = Nginx("gateway", folder)
        self.sockets = upstreams.sockets(settings.upstreams, folder)
        self.unhealthy: frozenset[Path] = frozenset()
        self.trial = upstreams.running_trial(settings.upstreams)
        self._configured: RunningTrial | None = None
        self._taken_up: RunningTrial | None = None
        self._next_report = 0.0

    def run(self, *, force: bool = False) -> None:
        """Start or reload the nginxes whose configuration has changed, or both.

        Args:
            force: reload both even if nothing has changed.

        Raises:
            CliError: if nginx rejects a configuration, or a file is invalid.
        """
        self._check_certificates()
        common = self._common()
        for name in ("errors.conf", "get.conf"):
            (self._folder / name).write_text(fill(NGINX_TEMPLATES / f"{name}.template", common))
        template, settings = NGINX_TEMPLATES / "replica.conf.template", self._settings
        blocks = upstreams.blocks(template, settings.upstreams, self._folder, settings.ca)
        replicas = fill(NGINX_TEMPLATES / "replicas.conf.template", common | {"REPLICAS": blocks})
        self._replicas.run(replicas, force=force)
        gateway = fill(NGINX_TEMPLATES / "nginx.conf.template", common | self._gateway_values())
        self._gateway.run(gateway, force=force)
        self._configured = self.trial

    def report_trial(self) -> None:
        """Tell the commands of each service, at least once a second, which trial all nginx processes have taken up."""
        changed = self._taken_up != self._configured and self._gateway.settled()
        if not changed and time.monotonic() < self._next_report:
            return
        self._next_report = time.monotonic() + trial.RENEWAL
        self._taken_up = self._configured if changed else self._taken_up
        for replica in self._settings.upstreams:
            if replica.folder:
                running = self._taken_up if self._taken_up and self._taken_up.replica == replica else None
                trial.report(replica.folder, self._settings.port, running.trial.id if running else "")

    def withdraw_reports(self) -> None:
        """Tell the commands of each service that this gateway is no longer before it."""
        for replica in self._settings.upstreams:
            if replica.folder:
                trial.withdraw_report(replica.folder, self._settings.port)

    @property
    def reload_pending(self) -> bool:
        """Whether one of them has not finished its reload."""
        return self._gateway.reload_pending or self._replicas.reload_pending

    def ended(self) -> bool:
        """Return whether one of them has exited."""
        return self._gateway.ended() or self._replicas.ended()

    def finish(self) -> None:
        """End both; the one for the replicas ends last, after the requests in flight."""
        self._gateway.finish(self._settings.limits.drain_seconds + 5)
        self._replicas.finish(5)

    def kill(self) -> None:
        """End both immediately."""
        self._gateway.kill()
        self._replicas.kill()

    def _check_certificates(self) -> None:
        settings = self._settings
        if settings.certificate and settings.key:
            certificates.check_pair(settings.certificate, settings.key)
        if settings.ca:
            certificates.check_ca(settings.ca)

    def _common(self) -> dict[str, str]:
        user = _worker()
        return self._settings.limits.values() | {
            "RUN": str(self._folder),
            "RUN_AS": f"user {user.pw_name} {grp.getgrgid(user.pw_gid).gr_name};" if user else "",
            "PROCESSES": str(_PROCESSES),
            "CONNECTIONS": str(min(_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0])),
        }

    def _gateway_values(self) -> dict[str, str]:
        settings = self._settings
        return {
            "LISTEN": f"{settings.listen} ssl" if settings.certificate else settings.listen,
            "TLS": _tls(settings.certificate, settings.key) if settings.certificate and settings.key else "",
            "KEYS": api_keys.as_map(api_keys.read(settings.keys)) if settings.keys else "",
            "WITHOUT_KEY": "" if settings.keys else "-",
            "SERVERS": upstreams.servers(settings.upstreams, self._folder, self.unhealthy),
            "CORS": " ".join(
                f'"{origin}" $http_origin;' if origin != "*" else 'default "*";' for origin in settings.cors
            ),
            "CORS_HEADERS": ", ".join(_CORS_HEADERS),
            "VERSION": __version__,
            "ACCESS_LOG": "off" if settings.access_log == "off" else f'"{settings.access_log}" json',
        } | upstreams.trial_values(self.trial, settings.upstreams, self._folder)


def run(settings: Settings) -> None:
    """Run the gateway until SIGTERM or SIGINT.

    Raises:
        CliError: if it cannot start, or an nginx exits unexpectedly.
    """
    signals = _Signals()
    _check_port(settings)
    _raise_open_files()
    with _folder() as folder:
        gateway = Gateway(settings, folder)
        try:
            applied = _signature(settings.files)
            gateway.run()
            _wait(settings, gateway)
            scheme = "https" if settings.certificate else "http"
            before = ", ".join(replica.address for replica in settings.upstreams)
            url = f"{scheme}://{settings.listen}/predictions/densenet"
            _say(f"the gateway is up: {url}, before {before}")
            _watch_files(settings, gateway, signals, applied)
            gateway.finish()
        finally:
            gateway.withdraw_reports()
            gateway.kill()


def _watch_files(settings: Settings, gateway: Gateway, signals: "_Signals", applied: object) -> None:
    """Apply changed files, trials, and changes of the replicas' health until a signal ends the gateway.

    A file that is invalid or half written changes nothing.

    Raises:
        CliError: if an nginx exits unexpectedly.
    """
    previous, messages = applied, list[str]()
    checker = upstream_health.HealthChecker(gateway.sockets)
    while not signals.end.wait(_POLL):
        if gateway.ended():
            raise CliError("nginx exited unexpectedly; see its output above")
        if (unhealthy := checker.unhealthy()) != gateway.unhealthy:
            gateway.unhealthy = unhealthy
            messages.append(_describe_health(gateway))
            _apply(gateway, messages, force=False)
        if (running := upstreams.running_trial(settings.upstreams)) != gateway.trial:
            gateway.trial = running
            messages.append(str(running.trial) if running else "the trial is over: no request goes to a new version")
            _apply(gateway, messages, force=False)
        gateway.report_trial()
        reload_requested = signals.reload.is_set()
        signals.reload.clear()
        current = _signature(settings.files)
        stable = current == previous  # otherwise another process may still be writing
        if reload_requested or (current != applied and stable):
            applied = current
            messages.append("the gateway has reloaded its files")
            _apply(gateway, messages, force=reload_requested)
        elif gateway.reload_pending:
            _apply(gateway, messages, force=False)
        previous = current


def _say(message: str, console: Console = out) -> None:
    console.print(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {message}", markup=False)


def _describe_health(gateway: Gateway) -> str:
    names = ", ".join(sorted(path.stem for path in gateway.unhealthy))
    if not names:
        return "all replicas are healthy"
    return f"{names}: no worker answers there; requests go to the other replicas first"


def _apply(gateway: Gateway, messages: list[str], *, force: bool) -> None:
    """Reload nginx and print the pending messages; an error is printed, and the old configuration stays in use.

    Args:
        messages: messages to print after the reload; cleared then, or if the reload fails.
    """
    try:
        gateway.run(force=force)
        for message in messages:
            _say(message)
    except (CliError, OSError) as error:
        _say(f"gateway: {error}; the previous configuration stays in use", err)
    if not gateway.reload_pending:
        messages.clear()


def _wait(settings: Settings, gateway: Gateway) -> None:
    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((settings.host, settings.port), timeout=1):
            return True
        return False

    if not wait_until(lambda: gateway.ended() or listens(), _START, _POLL) or gateway.ended():
        raise CliError(f"nginx does not listen on {settings.listen}; see its output above")


class _Signals:
    """Records signals: SIGTERM and SIGINT end the gateway, SIGHUP reloads all files."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.reload = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        (self.reload if number == signal.SIGHUP else self.end).set()


def _signature(files: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    """Return a value that changes when a file is written to, replaced, created or deleted."""
    return [_stamp(path) for path in files]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _tls(certificate: Path, key: Path) -> str:
    # nginx reads certificates when it loads its configuration. The comment with their time stamps makes the
    # configuration differ when only a certificate has changed.
    paths = (certificate.absolute(), key.absolute())
    lines = zip(("ssl_certificate", "ssl_certificate_key"), paths, strict=True)
    return "\n        ".join(f'{name} "{path}";  # {_stamp(path)}' for name, path in lines)


def _worker() -> pwd.struct_passwd | None:
    """Return the user that nginx's workers run as, or None if this process is not root and they run as its user."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next((names[name] for name in _USERS if name in names), None)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder for configurations and sockets, in memory if possible, since configurations contain keys."""
    parent = next((path for path in _FOLDERS if os.access(path, os.W_OK)), None)
    folder = Path(tempfile.mkdtemp(prefix="gateway-", dir=parent))
    try:
        if user := _worker():
            os.chown(folder, -1, user.pw_gid)
            folder.chmod(0o710)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_port(settings: Settings) -> None:
    try:
        processes.check_port(settings.host, settings.port)
    except OSError as error:
        what = f"cannot listen on {settings.listen} ({error.strerror})"
        raise CliError(f"{what}; choose another address with --listen") from error


def _raise_open_files() -> None:
    """Raise the limit on open files, which nginx inherits: it opens up to three files per connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (4 * _CONNECTIONS, _OPEN_MAX):
        with contextlib.suppress(ValueError, OSError):
            soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            return
