"""What the commands that ask the service share."""

import json
from pathlib import Path
from typing import Annotated

import stamina
import typer

from densenet_client.client import Client

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
    """A Client that keeps quiet about further tries. Raises ValueError for an option out of its range."""
    # Which request was tried again is no news to the person at the terminal.
    stamina.instrumentation.set_on_retry_hooks([])
    if key_file:
        token = _inference_key(key_file)
    if ca and not ca.is_file():
        raise ValueError(f"there is no CA file {ca}")
    return Client(url, token=token, timeout=timeout, parallel=parallel, verify=str(ca) if ca else True)


def _inference_key(key_file: Path) -> str:
    try:
        key: str = json.loads(key_file.read_text())["inference"]["key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"there is no inference key in {key_file}; it is TorchServe's key_file.json that is wanted"
        ) from error
    return key
