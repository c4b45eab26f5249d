"""The gateway's two nginxes: one that clients reach, one behind it that knows the replicas; both follow their files.

Two, because a replica's token changes every hour: the second one takes the new one while the first goes on, and no
client's connection is touched.
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
from pathlib import Path
from types import FrameType

from densenet.gateway import api_keys, upstream_health, upstreams
from densenet.gateway.nginx import Nginx, fill
from densenet.gateway.upstreams import Replica
from densenet.paths import NGINX_TEMPLATES
from export.console import Problem, err, out

_MEMORY = Path("/dev/shm")
_USERS = ("www-data", "nginx", "nobody")
_CONNECTIONS = 8192  # of a worker process, open files allowing
_PROCESSES = 2
_LOOK = 0.1  # seconds between two looks at the files; TorchServe's old token is void as soon as there is a new one
_START = 10  # seconds for nginx to listen


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the templates call by the same names in capitals."""

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
        """Them for the templates."""
        named = {name.upper(): str(value) for name, value in vars(self).items()}
        # A fifth more: of a chunked body the framing is in the buffer, too.
        more = {"BUFFER_BYTES": str(self.body_bytes * 6 // 5), "BODY_LIMIT": f"{self.body_bytes / 2**20:g} MiB"}
        return named | more


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the gateway listens, whom it lets in, and what is behind it."""

    host: str
    port: int
    certificate: Path | None
    key: Path | None
    keys: Path | None
    upstreams: tuple[Replica, ...]
    ca: Path | None
    canary: str
    access_log: str
    limits: Limits

    @property
    def listen(self) -> str:
        """HOST:PORT, as nginx wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def files(self) -> Sequence[Path]:
        """What is read again when it changes."""
        tokens = [upstreams.key_file(replica) for replica in self.upstreams]
        return [path for path in (self.certificate, self.key, self.keys, self.ca, *tokens) if path]


class Gateway:
    """Both processes, and the configurations that follow from the settings and from what the files say now."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._replicas = Nginx("replicas", folder)
        self._gateway = Nginx("gateway", folder)
        self.sockets = upstreams.sockets(settings.upstreams, folder)
        self.away: frozenset[Path] = frozenset()

    def run(self, *, anew: bool = False) -> None:
        """Starts what does not run, and reloads what has changed, or all of it. Raises Problem."""
        common = self._common()
        (self._folder / "errors.conf").write_text(fill(NGINX_TEMPLATES / "errors.conf.template", common))
        self._replicas.run(fill(NGINX_TEMPLATES / "replicas.conf.template", common | self._behind()), anew=anew)
        self._gateway.run(fill(NGINX_TEMPLATES / "nginx.conf.template", common | self._before()), anew=anew)

    @property
    def unsettled(self) -> bool:
        """Whether one of them has to be told again what it is to run on."""
        return self._gateway.unsettled or self._replicas.unsettled

    def ended(self) -> bool:
        """Whether one of them has ended by itself."""
        return self._gateway.ended() or self._replicas.ended()

    def finish(self) -> None:
        """Ends both, the one behind after what is in flight before it."""
        self._gateway.finish(self._settings.limits.drain_seconds + 5)
        self._replicas.finish(5)

    def kill(self) -> None:
        """Ends both at once."""
        self._gateway.kill()
        self._replicas.kill()

    def _common(self) -> dict[str, str]:
        user = _worker()
        return self._settings.limits.values() | {
            "RUN": str(self._folder),
            "RUN_AS": f"user {user.pw_name} {grp.getgrgid(user.pw_gid).gr_name};" if user else "",
            "PROCESSES": str(_PROCESSES),
            "CONNECTIONS": str(min(_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0])),
        }

    def _behind(self) -> dict[str, str]:
        settings = self._settings
        template = NGINX_TEMPLATES / "replica.conf.template"
        return {"REPLICAS": upstreams.blocks(template, settings.upstreams, self._folder, settings.ca)}

    def _before(self) -> dict[str, str]:
        settings = self._settings
        return {
            "LISTEN": f"{settings.listen} ssl" if settings.certificate else settings.listen,
            "TLS": _tls(settings.certificate, settings.key) if settings.certificate and settings.key else "",
            "KEYS": api_keys.as_map(api_keys.read(settings.keys)) if settings.keys else "",
            "WITHOUT_KEY": "" if settings.keys else "-",
            "SERVERS": upstreams.servers(settings.upstreams, self._folder, self.away),
            "CANARY": settings.canary,
            "ACCESS_LOG": "off" if settings.access_log == "off" else f"{settings.access_log} json",
        }


def stay(settings: Settings) -> None:
    """Runs the gateway until SIGTERM, SIGINT, or the end of one of its processes. Raises Problem."""
    signals = _Signals()
    _check_port(settings)
    _raise_open_files()
    with _folder() as folder:
        gateway = Gateway(settings, folder)
        try:
            seen = _signature(settings.files)
            gateway.run()
            _wait(settings, gateway)
            scheme = "https" if settings.certificate else "http"
            out.print(f"the gateway is up: {scheme}://{settings.listen}/predictions/densenet", markup=False)
            _follow(settings, gateway, signals, seen)
            gateway.finish()
        finally:
            gateway.kill()


def _follow(settings: Settings, gateway: Gateway, signals: "_Signals", applied: object) -> None:
    """Takes up changed files, and which replicas answer, until it is to end. A file that is bad, or half written,
    changes nothing."""
    before, untold = applied, list[str]()
    watch = upstream_health.Watch(gateway.sockets)
    while not signals.end.wait(_LOOK):
        if gateway.ended():
            raise Problem("nginx has ended by itself; what it said stands above")
        if (away := watch.away()) != gateway.away:
            gateway.away = away
            untold.append(_tell(gateway))
            _take_up(gateway, untold, anew=False)
        asked = signals.reload.is_set()
        signals.reload.clear()
        now = _signature(settings.files)
        rests = now == before  # nobody is just writing
        if asked or (now != applied and rests):
            applied = now
            untold.append("the gateway goes on with the files as they are now")
            _take_up(gateway, untold, anew=asked)
        elif gateway.unsettled:
            _take_up(gateway, untold, anew=False)
        before = now


def _tell(gateway: Gateway) -> str:
    names = ", ".join(sorted(path.stem for path in gateway.away))
    if not names:
        return "all replicas are asked alike"
    return f"{names}: no worker answers there, so all others are asked first"


def _take_up(gateway: Gateway, untold: list[str], *, anew: bool) -> None:
    """untold: what is to be said once nginx has gone over to it; emptied then, or when nothing comes of it."""
    try:
        gateway.run(anew=anew)
        for words in untold:
            out.print(words, markup=False)
    except (Problem, OSError) as problem:
        err.print(f"gateway: {problem}; going on with what was there before", markup=False)
    if not gateway.unsettled:
        untold.clear()


def _wait(settings: Settings, gateway: Gateway) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and not gateway.ended():
        with contextlib.suppress(OSError), socket.create_connection((settings.host, settings.port), timeout=1):
            return
        time.sleep(_LOOK)
    raise Problem("nginx does not listen; what it said stands above")


class _Signals:
    """SIGTERM and SIGINT ask for the end, SIGHUP for another look at everything."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.reload = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        (self.reload if number == signal.SIGHUP else self.end).set()


def _signature(files: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    """Differs when a file was written to or replaced; None for one that is not there."""
    return [_stamp(path) for path in files]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _tls(certificate: Path, key: Path) -> str:
    # nginx reads certificates when it loads its configuration: what names their time differs when they do.
    paths = (certificate.absolute(), key.absolute())
    lines = zip(("ssl_certificate", "ssl_certificate_key"), paths, strict=True)
    return "\n        ".join(f"{name} {path};  # {_stamp(path)}" for name, path in lines)


def _worker() -> pwd.struct_passwd | None:
    """Whom nginx's workers run as where its master is root; otherwise they are who started it."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next((names[name] for name in _USERS if name in names), None)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for configurations and sockets, in memory where the system has such a place: they hold keys."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="gateway-", dir=place))
    try:
        if user := _worker():
            os.chown(folder, -1, user.pw_gid)
            folder.chmod(0o710)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_port(settings: Settings) -> None:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise Problem(
                f"{settings.listen} cannot be listened on ({error.strerror}); choose with --listen"
            ) from error


def _raise_open_files() -> None:
    """nginx inherits it: one for each connection, and two for one that a replica is asked on."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * _CONNECTIONS
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
