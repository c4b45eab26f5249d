"""Reply: the bytes, status and headers of one answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

DESCRIPTION = "openapi.yaml"
_OPENAPI = "application/vnd.oai.openapi+json"

_PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; form-action 'self'">
<title>What is on this photo?</title>
<form method="post" enctype="multipart/form-data">
<label>Photo <input type="file" name="file" accept="image/*" required></label>
<button>Classify</button>
</form>
</html>
"""


@dataclass(frozen=True)
class Reply:
    """One HTTP answer. content_type and header names are constants of ours, header values ASCII: a client's words
    there would break the worker's protocol."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def document(content: object, status: int = 200) -> Reply:
    """A JSON document."""
    return Reply(encode(content), status)


def encode(content: object) -> bytes:
    """JSON in ASCII."""
    # NaN is no JSON; ASCII escapes keep whatever a client named its parts harmless to every reader.
    return json.dumps(content, allow_nan=False).encode("ascii")


def instead_of_an_answer(headers: Mapping[str, str]) -> Reply | None:
    """What a request without an image may be after: a person's browser, which alone names text/html, the page; a
    program, the description. headers: by lower-case name."""
    accept = headers.get("accept", "")
    if _OPENAPI in accept:
        return description()
    return upload_page() if "text/html" in accept else None


@cache
def description() -> Reply:
    """The OpenAPI document of everything that the handler accepts and answers."""
    text = Path(__file__).with_name(DESCRIPTION).read_text(encoding="utf-8")
    return Reply(encode(yaml.safe_load(text)), content_type=_OPENAPI)


def upload_page() -> Reply:
    """A page to choose a photo on; its form posts back to the same address."""
    return Reply(_PAGE, content_type="text/html; charset=utf-8")
