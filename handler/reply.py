"""Reply: the body, status and headers of one HTTP response."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import yaml

from handler.errors import ErrorCode

DESCRIPTION = "openapi.yaml"
CARD = "application/vnd.densenet.model-card+json"
"""Accept of a request for the model card."""
MODEL_CARD = "MODEL_CARD.md"
"""The model card for people, and the end of its address."""
_OPENAPI = "application/vnd.oai.openapi+json"
_HEALTH = "application/health+json"  # draft-inadarei-api-health-check: status is pass or fail


@dataclass(frozen=True)
class Reply:
    """One HTTP response.

    content_type and header names must be constants, and header values ASCII: text from a client could break the
    worker's protocol.
    """

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    protocol: str = "document"
    """The name of the request's protocol; "document" if it has none, such as for the page or the model card."""
    code: ErrorCode | None = None
    """The error code, if the whole request was rejected."""


def document(content: object, status: int = 200) -> Reply:
    """Return a reply with a JSON document."""
    return Reply(encode(content), status)


def encode(content: object) -> bytes:
    """Encode as JSON in ASCII."""
    # NaN is not valid JSON. ASCII escapes make part names that a client chose harmless to every reader.
    return json.dumps(content, allow_nan=False).encode("ascii")


def negotiate(headers: Mapping[str, str]) -> Reply | None:
    """Return the API description or the health document if a request without an image accepts one of them.

    headers: by lower-case name.
    """
    accepted = headers.get("accept", "")
    if _HEALTH in accepted:
        return Reply(encode({"status": "pass"}), content_type=_HEALTH)
    return description() if _OPENAPI in accepted else None


def draining_response(answer: Reply, headers: Mapping[str, str]) -> Reply:
    """Return the response while the service drains: the error in the client's protocol, or the health document."""
    if _HEALTH in headers.get("accept", ""):
        answer = Reply(encode({"status": "fail", "output": "draining"}), answer.status, _HEALTH)
    return replace(answer, headers={**answer.headers, "Retry-After": "1"})


@cache
def description() -> Reply:
    """Return the OpenAPI document of all requests and responses of the handler."""
    text = Path(__file__).with_name(DESCRIPTION).read_text(encoding="utf-8")
    return Reply(encode(yaml.safe_load(text)), content_type=_OPENAPI)
