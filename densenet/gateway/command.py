"""scripts/gateway: run nginx in front of TorchServe, with keys, limits and timeouts; docs/gateway.md describes it."""

import fcntl
import ipaddress
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from densenet.gateway import proxy, upstreams
from densenet.gateway.proxy import Limits, Settings
from densenet.paths import CONFIG
from densenet.service.properties import Properties
from export import console
from export.console import CliError, err

Listen = Annotated[str, typer.Option(metavar="HOST:PORT", help="Address that clients connect to.")]
Certificate = Annotated[
    Path | None, typer.Option(metavar="PEM", help="Certificate with its chain.", callback=console.existing_file)
]
Key = Annotated[
    Path | None, typer.Option(metavar="PEM", help="Private key of the certificate.", callback=console.existing_file)
]
Plain = Annotated[bool, typer.Option("--plain", help="Use HTTP instead of HTTPS; on loopback only.")]
Keys = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File of API keys, with a line NAME KEY each.", callback=console.existing_file),
]
NoKeys = Annotated[bool, typer.Option("--no-keys", help="Accept requests without a key.")]
_upstream = "A TorchServe, and the folder of its key_file.json; repeatable. [default: this checkout's service]"
Upstream = Annotated[list[str] | None, typer.Option(metavar="URL[,FOLDER]", help=_upstream)]
UpstreamCA = Annotated[
    Path | None, typer.Option(metavar="PEM", help="CA certificate for https upstreams.", callback=console.existing_file)
]
Cors = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN", help="Origin whose web pages may send requests; repeatable; * for any. [default: none]"
    ),
]
Rate = Annotated[int, typer.Option(min=1, help="Maximum requests per second, per key or address.")]
Burst = Annotated[int, typer.Option(min=0, help="Requests above the rate that are accepted at once.")]
Concurrent = Annotated[int, typer.Option(min=1, help="Maximum concurrent requests in total.")]
Each = Annotated[int, typer.Option(min=1, help="Maximum concurrent requests per key or address.")]
Header = Annotated[int, typer.Option(min=1, help="Timeout in seconds for a request's header.")]
Body = Annotated[int, typer.Option(min=1, help="Timeout in seconds between two reads of a body, or two writes.")]
Idle = Annotated[int, typer.Option(min=1, help="Timeout in seconds between two requests on a connection.")]
Answer = Annotated[int, typer.Option(min=1, help="Timeout in seconds for an answer; TorchServe's own is 120.")]
Drain = Annotated[int, typer.Option(min=1, help="Seconds for requests in flight to finish after SIGTERM.")]
AccessLog = Annotated[str, typer.Option(metavar="FILE", help="File for a JSON line per request; `off` for none.")]


def main(
    listen: Listen = "127.0.0.1:8443",
    certificate: Certificate = None,
    key: Key = None,
    plain: Plain = False,
    keys: Keys = None,
    no_keys: NoKeys = False,
    upstream: Upstream = None,
    upstream_ca: UpstreamCA = None,
    cors: Cors = None,
    rate: Rate = 50,
    burst: Burst = 100,
    concurrent: Concurrent = 100,
    concurrent_each: Each = 50,
    header_seconds: Header = 10,
    body_seconds: Body = 10,
    idle_seconds: Idle = 60,
    answer_seconds: Answer = 130,
    drain_seconds: Drain = 150,
    access_log: AccessLog = "/dev/stdout",
) -> None:
    """Run nginx in front of TorchServe until SIGTERM or Ctrl-C, which let requests in flight finish; SIGHUP reloads all
    files."""
    host, port = _address(listen)
    _check_access(host, plain=plain, tls=bool(certificate and key), keys=bool(keys), no_keys=no_keys)
    rates = {"rate": rate, "burst": burst, "concurrent": concurrent, "concurrent_each": concurrent_each}
    seconds = {"header_seconds": header_seconds, "body_seconds": body_seconds, "idle_seconds": idle_seconds}
    ending = {"answer_seconds": answer_seconds, "drain_seconds": drain_seconds}
    settings = Settings(
        host=host,
        port=port,
        certificate=certificate,
        key=key,
        keys=keys,
        upstreams=tuple(map(upstreams.parse, upstream)) if upstream else upstreams.of_this_checkout(),
        ca=upstream_ca and upstream_ca.absolute(),
        cors=tuple(map(_origin, cors or ())),
        access_log=_log_file(access_log),
        limits=Limits(**rates, **seconds, **ending, body_bytes=_body_bytes()),
    )
    for replica in settings.upstreams:
        if replica.folder and not replica.folder.is_dir():  # in a pod, TorchServe may make it later
            err.print(f"no folder {replica.folder} yet; until it is there, requests have no token", markup=False)
    _append_to_output()
    proxy.run(settings)


def _append_to_output() -> None:
    """Append to a file that standard output or error leads to: nginx does, and neither must overwrite the other."""
    for descriptor in (1, 2):
        with suppress(OSError):  # it is closed
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)


def _address(listen: str) -> tuple[str, int]:
    match = re.fullmatch(r"\[?([0-9A-Fa-f.:]+)\]?:([0-9]{1,5})", listen)
    try:
        return str(ipaddress.ip_address(match[1] if match else "")), int(match[2] if match else "")
    except ValueError as error:
        message = f"--listen must be an address and a port such as 0.0.0.0:443 or [::]:443, not {listen}"
        raise CliError(message) from error


def _log_file(text: str) -> str:
    path = Path(text).absolute()
    if text == "off":
        return text
    written = path if path.exists() else path.parent
    if path.is_dir() or not os.access(written, os.W_OK):
        raise CliError(f"--access-log: cannot write to {path}; name a file in a folder that you can write to, or off")
    return str(path)


def _check_access(host: str, *, plain: bool, tls: bool, keys: bool, no_keys: bool) -> None:
    """Check that running without TLS or without keys was requested explicitly.

    Raises:
        CliError: if an option is missing, or two contradict each other.
    """
    if plain and not ipaddress.ip_address(host).is_loopback:
        raise CliError(f"--plain is for loopback; clients of {host} would send keys in clear text over the network")
    if plain == tls:
        raise CliError("give --certificate and --key, or --plain on loopback" + (", not both" if tls else ""))
    if keys == no_keys:
        raise CliError("give --keys FILE, or --no-keys to accept requests without one" + (", not both" if keys else ""))


def _origin(origin: str) -> str:
    """Check an origin as browsers send it.

    Raises:
        CliError: if it is none.
    """
    if not re.fullmatch(r"\*|https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?", origin):
        raise CliError(f"--cors must be * or an origin such as https://example.org, without a path, not {origin}")
    return origin


def _body_bytes() -> int:
    """Return TorchServe's own limit, since the gateway need not forward what TorchServe would refuse."""
    return int(Properties.read(CONFIG).values["max_request_size"])
