"""Find the service that a command speaks of.

It is one that scripts/serve started from this checkout, one that `torchserve --start` started in this folder, or one
that is named by its addresses. No port is assumed: another checkout, or another program, may listen there.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer

from densenet.paths import CONFIG, LOGS, ROOT
from densenet.service import authenticated_session, torchserve
from densenet.service.properties import Properties
from densenet.service.tokens import KEY_FILE
from densenet.service.torchserve import CA, Service
from export.console import CliError

PortOption = Annotated[int | None, typer.Option(help="Port of the service, if this checkout runs several.")]
ClientUrl = Annotated[str | None, typer.Option(help="URL of the service. [default: this checkout's only one]")]
UrlOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Address that takes images, of a service that is not this checkout's.")
]
ManagementOption = Annotated[
    str | None, typer.Option("--management", metavar="URL", help="Address of its management API, with --url.")
]
KeysOption = Annotated[
    Path | None, typer.Option("--key-file", metavar="FILE", help="Its key_file.json, with --url, for tokens.")
]
_EXAMPLE = "http://127.0.0.1:8080/predictions/densenet"
_JAVA_CLASS = "org.pytorch.serve.ModelServer"
_NOWHERE = os.devnull  # a folder that has no key file


def find(
    port: int | None = None, url: str | None = None, management: str | None = None, key_file: Path | None = None
) -> Service:
    """Return the service on a port, the only one of this checkout, or the one with these addresses.

    Raises:
        CliError: if there is none, if there are several and no port was given, or if the options contradict each other.
    """
    _check_choice(port, url)
    if url is not None:
        return _named(url, management, key_file)
    if management or key_file:
        raise CliError(f"--management and --key-file belong to a service that --url names, such as {_EXAMPLE}")
    return torchserve.choose(of_this_checkout(), port)


def of_this_checkout() -> Sequence[Service]:
    """Return the running services of this checkout, whoever started them."""
    return [*torchserve.running(), *started_without_us()]


def address_for_client(
    port: int | None, url: str | None, token: str | None, key_file: Path | None, ca: Path | None
) -> tuple[str, Path | None, Path | None]:
    """Return the URL, the key file and the CA to ask a service with; by default those of this checkout's only service.

    Raises:
        CliError: as `find` does, and if TorchServe does not renew an expired token.
    """
    _check_choice(port, url)
    if url is not None:
        return url, key_file, ca
    service = find(port)
    keys = Path(service.folder, KEY_FILE)
    if token is None and key_file is None and keys.exists():
        authenticated_session.session(service).close()  # which replaces tokens that have expired
        key_file = keys
    return service.url, key_file, ca or (Path(service.ca) if service.ca else None)


def _check_choice(port: int | None, url: str | None) -> None:
    if port and url is not None:
        raise CliError("--port chooses among this checkout's services and --url names any; give one of them")


def started_without_us() -> Sequence[Service]:
    """Return the services that `torchserve --start` started in this folder, by the configuration that each was given.

    Raises:
        CliError: if such a configuration cannot be used.
    """
    services = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has just ended, or is another user's
            words = process.cmdline()
            if _JAVA_CLASS in words and Path(process.cwd()) == ROOT.resolve():
                services.append(_plain(process, words))
    return services


def _plain(process: psutil.Process, words: Sequence[str]) -> Service:
    configuration = ROOT / words[words.index("-f") + 1] if "-f" in words else CONFIG
    properties = Properties.read(configuration)
    return Service(
        pid=process.pid,
        started=process.create_time(),
        port=properties.port,
        inference=properties.inference,
        management=properties.management,
        model=properties.archive.stem,
        temp="",
        logs=str(LOGS),
        card={},
        folder=str(ROOT),
        ca=os.environ.get(CA) or properties.certificate,
    )


def _named(url: str, management: str | None, key_file: Path | None) -> Service:
    address = re.fullmatch(r"(https?://[^/?#]+)/predictions/([^/?#]+)/?", url)
    if address is None:
        raise CliError(f"--url must be an address that takes images, such as {_EXAMPLE}, not {url}")
    if management is not None and not re.fullmatch(r"https?://[^/?#]+/?", management):
        raise CliError(f"--management must be an address such as http://127.0.0.1:8081, not {management}")
    if key_file and (key_file.name != KEY_FILE or not key_file.is_file()):
        raise CliError(f"--key-file must be the {KEY_FILE} in the folder that TorchServe runs in, not {key_file}")
    return Service(
        pid=0,
        started=0,
        port=0,
        inference=address[1],
        management=(management or "").rstrip("/"),
        model=address[2],
        temp="",
        logs="its logs",
        card={},
        folder=str(key_file.parent.absolute()) if key_file else _NOWHERE,
        ca=os.environ.get(CA),
    )
