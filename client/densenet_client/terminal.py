"""The options and the connection that all commands which call the service share."""

import json
from pathlib import Path
from typing import Annotated

import stamina
import typer

from densenet_client.answers import Model
from densenet_client.client import Client

TOKEN = "DENSENET_TOKEN"  # environment variable that keeps a token off the command line
TokenOption = Annotated[
    str | None, typer.Option(envvar=TOKEN, help="Token, if the service requires one; the variable hides it.")
]
KeyFileOption = Annotated[
    Path | None, typer.Option(help="TorchServe's key_file.json, from which to read the token.", metavar="FILE")
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", envvar="DENSENET_CA", help="CA certificate of the service.", metavar="FILE")
]
Parallel = Annotated[int, typer.Option(min=1, max=64, help="Concurrent requests.")]
Timeout = Annotated[float, typer.Option(help="Timeout in seconds, for connecting and for waiting.")]
EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}


def connect(
    url: str, *, token: str | None, key_file: Path | None, ca: Path | None, timeout: float, parallel: int
) -> Client:
    """Return a Client that does not log retries.

    Raises: ValueError for an option out of its range.
    """
    # Retries are of no interest to the user at the terminal.
    stamina.instrumentation.set_on_retry_hooks([])
    if key_file:
        token = _inference_key(key_file)
    if ca and not ca.is_file():
        raise ValueError(f"no such CA file: {ca}; --ca or DENSENET_CA names it")
    return Client(url, token=token, timeout=timeout, parallel=parallel, verify=str(ca) if ca else True)


def describe(url: str, model: Model) -> str:
    """Say in one line which service answered, with which model and weights."""
    return f"{url}: {model}"


def _inference_key(key_file: Path) -> str:
    try:
        key: str = json.loads(key_file.read_text())["inference"]["key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"no inference key in {key_file}; give --key-file TorchServe's key_file.json") from error
    return key
