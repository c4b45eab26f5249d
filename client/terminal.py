"""What the commands that ask the service share."""

from pathlib import Path
from typing import Annotated

import stamina
import typer

from client.client import Client
from densenet.service import tokens
from export.console import Problem

TOKEN = "DENSENET_TOKEN"  # environment variable that keeps a token off the command line
TokenOption = Annotated[
    str | None, typer.Option(envvar=TOKEN, help="For a service that asks for one; the variable keeps it unseen.")
]
KeyFileOption = Annotated[
    Path | None, typer.Option(help="TorchServe's key_file.json, to take the token from.", metavar="FILE")
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", envvar="DENSENET_CA", help="CA of the service's certificate.", metavar="FILE")
]
EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}


def connect(
    url: str, *, token: str | None, key_file: Path | None, ca: Path | None, timeout: float, parallel: int
) -> Client:
    """A Client that keeps quiet about further tries. Raises Problem for an option out of its range."""
    # Which request was tried again is no news to the person at the terminal.
    stamina.instrumentation.set_on_retry_hooks([])
    if key_file:
        token = tokens.read(key_file).get("inference", {}).get("key")
        if token is None:
            raise Problem(f"there is no inference key in {key_file}; it is TorchServe's key_file.json that is wanted")
    if ca and not ca.is_file():
        raise Problem(f"there is no CA file {ca}")
    try:
        return Client(url, token=token, timeout=timeout, parallel=parallel, verify=str(ca) if ca else True)
    except ValueError as error:
        raise Problem(str(error)) from error
