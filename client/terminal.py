"""What the commands that ask the service share."""

import stamina

from client.client import Client
from console import Problem

TOKEN = "DENSENET_TOKEN"  # environment variable that keeps a token off the command line
EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}


def connect(url: str, *, token: str | None, timeout: float, parallel: int) -> Client:
    """A Client that keeps quiet about further tries. Raises Problem for an option out of its range."""
    # Which request was tried again is no news to the person at the terminal.
    stamina.instrumentation.set_on_retry_hooks([])
    try:
        return Client(url, token=token, timeout=timeout, parallel=parallel)
    except ValueError as error:
        raise Problem(str(error)) from error
