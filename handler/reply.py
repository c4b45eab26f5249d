"""Reply: the bytes, status and headers of one answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import yaml

from handler.failures import Code

DESCRIPTION = "openapi.yaml"
_OPENAPI = "application/vnd.oai.openapi+json"
_HEALTH = "application/health+json"  # draft-inadarei-api-health-check: status is pass or fail


@dataclass(frozen=True)
class Reply:
    """One HTTP answer. content_type and header names are constants of ours, header values ASCII: a client's words
    there would break the worker's protocol."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    protocol: str = "document"
    """The name of the protocol of the request; what is not asked in one is a document, such as the page."""
    code: Code | None = None
    """Why the whole request was refused, if it was."""


def document(content: object, status: int = 200) -> Reply:
    """A JSON document."""
    return Reply(encode(content), status)


def encode(content: object) -> bytes:
    """JSON in ASCII."""
    # NaN is no JSON; ASCII escapes keep whatever a client named its parts harmless to every reader.
    return json.dumps(content, allow_nan=False).encode("ascii")


def instead_of_an_answer(headers: Mapping[str, str]) -> Reply | None:
    """The description or the state of health, where a program without an image asks for it. headers: by lower-case
    name."""
    accepted = headers.get("accept", "")
    if _HEALTH in accepted:
        return Reply(encode({"status": "pass"}), content_type=_HEALTH)
    return description() if _OPENAPI in accepted else None


def turned_away(answer: Reply, headers: Mapping[str, str]) -> Reply:
    """An answer to everybody while the service drains: the refusal in the client's protocol, or the state of health."""
    if _HEALTH in headers.get("accept", ""):
        answer = Reply(encode({"status": "fail", "output": "draining"}), answer.status, _HEALTH)
    return replace(answer, headers={**answer.headers, "Retry-After": "1"})


@cache
def description() -> Reply:
    """The OpenAPI document of everything that the handler accepts and answers."""
    text = Path(__file__).with_name(DESCRIPTION).read_text(encoding="utf-8")
    return Reply(encode(yaml.safe_load(text)), content_type=_OPENAPI)
