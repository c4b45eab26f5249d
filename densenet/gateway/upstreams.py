"""The TorchServes behind the gateway: where they are, how they are spoken to, and the token that each of them wants."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from densenet.gateway.nginx import fill
from densenet.service import tokens, torchserve
from export.console import Problem


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
        found = "no service of this checkout is up" if not running else "several services of this checkout are up"
        raise Problem(
            f"{found}; start one with scripts/serve, or name what to put the gateway before: --upstream HOST:PORT"
        )
    return (parse(f"{running[0].inference},{running[0].folder}"),)


def key_file(replica: Replica) -> Path | None:
    """The file whose change means that a replica has another token."""
    return replica.folder / tokens.KEY_FILE if replica.folder else None


def token(replica: Replica) -> str | None:
    """The token for predictions; None where TorchServe wants none. Raises Problem for a file that cannot be read."""
    path = key_file(replica)
    if path is None or not path.exists():
        return None
    found = tokens.current(path.parent, "inference")
    if found is None:
        raise Problem(f"{path} is not what TorchServe writes")
    return found


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


def servers(replicas: Sequence[Replica], run: Path, away: Collection[Path] = ()) -> str:
    """The sockets as entries of nginx's `upstream`. An only one that answers stands there twice: what failed is asked
    again.

    away: the sockets that are asked after all others; never all of them. Left out, they would be missed: that one of
    them answers again is known a second late, and the last of the others may begin to drain in it. nginx itself takes
    none for dead: a picture that fails everywhere would take all of them out.
    """
    everywhere = sockets(replicas, run)
    there = [path for path in everywhere if path not in away]
    ranks = [(path, "") for path in (there if len(there) > 1 else there * 2)]
    ranks += [(path, " backup") for path in everywhere if path in away]
    return "\n        ".join(f"server unix:{path} max_fails=0{rank};" for path, rank in ranks)


def sockets(replicas: Sequence[Replica], run: Path) -> list[Path]:
    """Where the gateway finds each of them."""
    return [_socket(number, replica, run) for number, replica in enumerate(replicas)]


def _socket(number: int, replica: Replica, run: Path) -> Path:
    # The log tells a replica by its socket.
    return run / f"{number}-{replica.host.replace(':', '.')[:40]}-{replica.port}.sock"
