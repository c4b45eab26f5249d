"""The TorchServes behind the gateway: their addresses, tokens, and nginx configuration."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from densenet.gateway.nginx import fill
from densenet.service import lookup, tokens, torchserve, trial
from densenet.service.properties import host_and_port
from densenet.service.trial import Trial
from export.console import CliError


@dataclass(frozen=True)
class Replica:
    """A TorchServe's inference address, and the folder of its key file, if it has one."""

    scheme: str
    host: str
    port: int
    folder: Path | None = None

    @property
    def address(self) -> str:
        """HOST:PORT in nginx's format."""
        return host_and_port(self.host, self.port)


@dataclass(frozen=True)
class RunningTrial:
    """A trial of a new version, and the replica that has the version."""

    replica: Replica
    trial: Trial


def parse(text: str) -> Replica:
    """Parse `HOST:PORT`, optionally with http:// or https:// before it and `,FOLDER` of the key file after it.

    Raises:
        CliError: if the text has another form.
    """
    address, _, folder = text.partition(",")
    url = urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = url.port
    except ValueError:
        port = None
    if url.scheme not in ("http", "https") or not url.hostname or not port or url.path.strip("/"):
        raise CliError(
            f"{text!r} is not an upstream; write HOST:PORT or https://HOST:PORT, with ,FOLDER after it for its tokens"
        )
    return Replica(url.scheme, url.hostname, port, Path(folder) if folder else None)


def of_this_checkout() -> tuple[Replica, ...]:
    """Return the only running service of this checkout.

    Raises:
        CliError: if there is none, or more than one.
    """
    candidates = lookup.of_this_checkout()
    service = torchserve.choose(candidates, None, "name those that the gateway stands before: --upstream HOST:PORT")
    return (parse(f"{service.inference},{service.folder}"),)


def key_file(replica: Replica) -> Path | None:
    """Return the key file of a replica, which changes when its token does; None if it needs no token."""
    return replica.folder / tokens.KEY_FILE if replica.folder else None


def token(replica: Replica) -> str | None:
    """Return the token for predictions; None if TorchServe requires none.

    Raises:
        CliError: if the key file is invalid.
    """
    path = key_file(replica)
    if path is None or not path.exists():
        return None
    key = tokens.current(path.parent, "inference")
    if key is None:
        raise CliError(f"{path} is not a key file of TorchServe; name the folder that TorchServe runs in")
    return key


def running_trial(replicas: Sequence[Replica]) -> RunningTrial | None:
    """Return the trial that a command makes of one of the replicas; of several, the first."""
    found = ((replica, trial.current(replica.folder)) for replica in replicas if replica.folder)
    return next((RunningTrial(replica, made) for replica, made in found if made), None)


def trial_values(running: RunningTrial | None, replicas: Sequence[Replica], run: Path) -> dict[str, str]:
    """Return the template's values for a trial. The new version's requests go to the replica that has it."""
    made = running.trial if running else None
    copies, _, path = made.copies.partition("/") if made and made.copies else ("127.0.0.1:1", "", "")
    return {
        "CANARY": f'{made.percent:.2f}% "/{made.version}";' if made and made.percent else "",
        "TRIAL_SERVERS": _entries([sockets(replicas, run)[replicas.index(running.replica) if running else 0]]),
        "MIRROR": "/-/shadow" if path else "off",
        "COPIES": copies,
        "COPIES_PATH": path,
    }


def blocks(template: Path, replicas: Sequence[Replica], run: Path, ca: Path | None) -> str:
    """Return nginx's configuration for the replicas, each behind its own socket."""
    trusted = f'proxy_ssl_trusted_certificate "{ca}";' if ca else ""
    return "\n".join(
        fill(
            template,
            {
                "NUMBER": str(number),
                "ADDRESS": replica.address,
                "HOST": replica.host,
                "SCHEME": replica.scheme,
                "SOCKET": str(_socket(number, replica, run)),
                "CA": trusted,
                "AUTHORIZATION": f"Bearer {key}" if (key := token(replica)) else "",
            },
        )
        for number, replica in enumerate(replicas)
    )


def servers(replicas: Sequence[Replica], run: Path, unhealthy: Collection[Path] = ()) -> str:
    """Return the sockets as entries of nginx's `upstream`.

    A single healthy socket is listed twice, so that nginx retries a failed request on it. Unhealthy sockets are backups
    and not left out: the gateway notices a recovery a second late, and the last healthy replica may begin to drain
    within that second. `max_fails=0` keeps nginx from excluding servers, since an image that fails everywhere would
    exclude all of them.

    Args:
        unhealthy: the sockets to use only after all others; never all of them.
    """
    everywhere = sockets(replicas, run)
    return _entries([path for path in everywhere if path not in unhealthy], [p for p in everywhere if p in unhealthy])


def _entries(first: Sequence[Path], backups: Sequence[Path] = ()) -> str:
    entries = [(path, "") for path in (first if len(first) > 1 else [*first, *first])]
    entries += [(path, " backup") for path in backups]
    return "\n        ".join(f"server unix:{path} max_fails=0{suffix};" for path, suffix in entries)


def sockets(replicas: Sequence[Replica], run: Path) -> list[Path]:
    """Return the socket of each replica."""
    return [_socket(number, replica, run) for number, replica in enumerate(replicas)]


def _socket(number: int, replica: Replica, run: Path) -> Path:
    # The access log names a replica by its socket, so the file name contains its address.
    return run / f"{number}-{replica.host.replace(':', '.')[:40]}-{replica.port}.sock"
