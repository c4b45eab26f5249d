"""The TorchServes behind the front: where they are, how they are spoken to, and the token that each of them wants."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from console import Problem
from service import torchserve
from service.nginx import fill

_KEYS = "key_file.json"  # TorchServe writes it where it was started


@dataclass(frozen=True)
class Replica:
    """A TorchServe's inference address, and the folder in which it keeps its keys, if it has any."""

    scheme: str
    host: str
    port: int
    folder: Path | None = None

    @property
    def address(self) -> str:
        """HOST:PORT, as nginx wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Replica:
    """A replica from `HOST:PORT`, with or without http:// or https:// before, and `,FOLDER` of its keys after it."""
    address, _, folder = text.partition(",")
    url = urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = url.port
    except ValueError:
        port = None
    if url.scheme not in ("http", "https") or not url.hostname or not port or url.path.strip("/"):
        raise Problem(
            f"{text!r} is no upstream; one is HOST:PORT, https://HOST:PORT, or either with ,FOLDER of its keys"
        )
    return Replica(url.scheme, url.hostname, port, Path(folder) if folder else None)


def of_this_checkout() -> tuple[Replica, ...]:
    """The one service of this checkout that runs. Raises Problem where there is none, or more than one."""
    running = torchserve.running()
    if len(running) != 1:
        found = "no service of this checkout runs" if not running else "several services of this checkout run"
        raise Problem(
            f"{found}; start one with scripts/serve, or name what to put the front before: --upstream HOST:PORT"
        )
    return (parse(f"{running[0].inference},{torchserve.RUN / str(running[0].port)}"),)


def key_file(replica: Replica) -> Path | None:
    """The file whose change means that a replica has another token."""
    return replica.folder / _KEYS if replica.folder else None


def token(replica: Replica) -> str | None:
    """The token for predictions; None where TorchServe wants none. Raises Problem for a file that cannot be read."""
    path = key_file(replica)
    if path is None or not path.exists():
        return None
    try:
        return str(json.loads(path.read_bytes())["inference"]["key"])
    except (ValueError, KeyError, TypeError) as error:
        raise Problem(f"{path} is not what TorchServe writes") from error


def blocks(template: Path, replicas: Sequence[Replica], run: Path, ca: Path | None) -> str:
    """nginx's configuration for all of them, each behind a socket of its own."""
    trusted = f"proxy_ssl_trusted_certificate {ca};" if ca else ""
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
                "AUTHORIZATION": f"Bearer {known}" if (known := token(replica)) else "",
            },
        )
        for number, replica in enumerate(replicas)
    )


def servers(replicas: Sequence[Replica], run: Path) -> str:
    """The sockets as entries of nginx's `upstream`. An only replica stands there twice: what failed is asked again.

    None is ever taken for dead: a picture that fails everywhere would take all of them out.
    """
    sockets = [_socket(number, replica, run) for number, replica in enumerate(replicas)]
    return "\n        ".join(
        f"server unix:{path} max_fails=0;" for path in (sockets if len(sockets) > 1 else sockets * 2)
    )


def _socket(number: int, replica: Replica, run: Path) -> Path:
    # The log tells a replica by its socket.
    return run / f"{number}-{replica.host.replace(':', '.')[:40]}-{replica.port}.sock"
