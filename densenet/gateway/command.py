"""scripts/gateway: nginx before TorchServe, with keys, limits and time-outs; docs/gateway.md describes it."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated

import typer

from densenet.gateway import proxy, upstreams
from densenet.gateway.proxy import Limits, Settings
from densenet.paths import CONFIG
from densenet.service.properties import Properties
from export.console import Problem

Listen = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where clients connect.")]
Certificate = Annotated[Path | None, typer.Option(metavar="PEM", help="The certificate, with its chain.")]
Key = Annotated[Path | None, typer.Option(metavar="PEM", help="The certificate's private key.")]
Plain = Annotated[bool, typer.Option("--plain", help="HTTP instead of HTTPS; on loopback only.")]
Keys = Annotated[Path | None, typer.Option(metavar="FILE", help="API keys, a line NAME KEY each.")]
NoKeys = Annotated[bool, typer.Option("--no-keys", help="Let everybody in.")]
_upstream = "A TorchServe, and where its key_file.json lies; repeatable. [default: this checkout's service]"
Upstream = Annotated[list[str] | None, typer.Option(metavar="URL[,FOLDER]", help=_upstream)]
UpstreamCA = Annotated[Path | None, typer.Option(metavar="PEM", help="Who has signed https upstreams.")]
Canary = Annotated[str | None, typer.Option(metavar="VERSION=PERCENT", help="A share for another version.")]
Rate = Annotated[int, typer.Option(min=1, help="Requests a second of one key, or of one address.")]
Burst = Annotated[int, typer.Option(min=0, help="Requests beyond the rate that are let through at once.")]
Concurrent = Annotated[int, typer.Option(min=1, help="Requests in work at a time, of all.")]
Each = Annotated[int, typer.Option(min=1, help="Requests in work at a time, of one key or one address.")]
Header = Annotated[int, typer.Option(min=1, help="Seconds for a request's header to arrive.")]
Body = Annotated[int, typer.Option(min=1, help="Seconds between two pieces of a body, or of an answer.")]
Idle = Annotated[int, typer.Option(min=1, help="Seconds between two requests on a connection.")]
Answer = Annotated[int, typer.Option(min=1, help="Seconds for TorchServe to answer; itself it takes 120.")]
Drain = Annotated[int, typer.Option(min=1, help="Seconds for what is in flight to end, after SIGTERM.")]
AccessLog = Annotated[str, typer.Option(metavar="FILE", help="A JSON line a request; `off` for none.")]


def main(
    listen: Listen = "127.0.0.1:8443",
    certificate: Certificate = None,
    key: Key = None,
    plain: Plain = False,
    keys: Keys = None,
    no_keys: NoKeys = False,
    upstream: Upstream = None,
    upstream_ca: UpstreamCA = None,
    canary: Canary = None,
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
    """Puts nginx before TorchServe and stays. SIGTERM and Ctrl-C finish what is in flight; SIGHUP reads all files."""
    host, port = _address(listen)
    _check_doors(host, plain=plain, tls=bool(certificate and key), keys=bool(keys), no_keys=no_keys)
    per_second = {"rate": rate, "burst": burst, "concurrent": concurrent, "concurrent_each": concurrent_each}
    seconds = {"header_seconds": header_seconds, "body_seconds": body_seconds, "idle_seconds": idle_seconds}
    ends = {"answer_seconds": answer_seconds, "drain_seconds": drain_seconds}
    settings = Settings(
        host=host,
        port=port,
        certificate=certificate,
        key=key,
        keys=keys,
        upstreams=tuple(map(upstreams.parse, upstream)) if upstream else upstreams.of_this_checkout(),
        ca=upstream_ca,
        canary=_split(canary),
        access_log=access_log if access_log == "off" else str(Path(access_log).absolute()),
        limits=Limits(**per_second, **seconds, **ends, body_bytes=_body_bytes()),
    )
    proxy.stay(settings)


def _address(listen: str) -> tuple[str, int]:
    match = re.fullmatch(r"\[?([0-9A-Fa-f.:]+)\]?:([0-9]{1,5})", listen)
    try:
        return str(ipaddress.ip_address(match[1] if match else "")), int(match[2] if match else "")
    except ValueError as error:
        raise Problem(f"--listen wants an address and a port such as 0.0.0.0:443 or [::]:443, not {listen}") from error


def _check_doors(host: str, *, plain: bool, tls: bool, keys: bool, no_keys: bool) -> None:
    """Nothing is left open by an omission. Raises Problem."""
    if plain and not ipaddress.ip_address(host).is_loopback:
        raise Problem(f"--plain is for loopback; {host} is reached from elsewhere, and keys would be read on the way")
    if plain == tls:
        raise Problem("give --certificate and --key, or --plain on loopback" + (", not both" if tls else ""))
    if keys == no_keys:
        raise Problem("give --keys FILE, or --no-keys to let everybody in" + (", not both" if keys else ""))


def _split(canary: str | None) -> str:
    """The canary's line of nginx's split_clients."""
    if canary is None:
        return ""
    match = re.fullmatch(r"([A-Za-z0-9_-][A-Za-z0-9._-]{0,63})=([0-9]{1,2}(?:\.[0-9]{1,2})?)%?", canary)
    if match is None or not float(match[2]):
        raise Problem(f"--canary wants a version and a share below 100 such as 2.0=10, not {canary}")
    return f'{match[2]}% "/{match[1]}";'


def _body_bytes() -> int:
    """TorchServe's own limit: what it would refuse need not be sent to it."""
    return int(Properties.read(CONFIG).values["max_request_size"])
