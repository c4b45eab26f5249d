"""The line of JSON that a request leaves where logs are JSON: what an operator may know of it, nothing of its content.

TorchServe takes it for a line of the worker's log. It begins with a brace, so never with what TorchServe acts on.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

from handler.metrics import Answered, Clock, outcome_of, reasons

VARIABLE = "DENSENET_LOG_FORMAT"  # of the environment; log4j2.xml reads it, too
HEADER = "X-Correlation-Id"  # TorchServe overwrites X-Request-Id with an id of its own
_NAMES = ("x-request-id", "x-correlation-id")
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def wanted() -> bool:
    """Whether this worker's service writes JSON."""
    return os.environ.get(VARIABLE) == "json"


def caller_id(headers: Mapping[str, str]) -> str | None:
    """The id that the caller gave to its request, if it can stand in a header. headers: by lower-case name."""
    given = (headers[name] for name in _NAMES if name in headers)
    return next((value for value in given if _ID.fullmatch(value)), None)


def line(answered: Answered, clock: Clock, *, request: str | None, caller: str | None, batch: int) -> str:
    """Of one request. Milliseconds are those of its batch, of `batch` requests."""
    outcomes = Counter(outcome_of(outcome, answered.min_probability) for outcome in answered.outcomes)
    return json.dumps(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": request,
            "caller": caller,
            "protocol": answered.reply.protocol,
            "status": answered.reply.status,
            "images": len(answered.outcomes),
            "outcomes": outcomes,
            "codes": sorted({code.value for code in reasons(answered)}),
            "batch": batch,
            "decode_ms": _milliseconds(clock.seconds["decode"]),
            "transform_ms": _milliseconds(clock.seconds["transform"]),
            "score_ms": _milliseconds(clock.seconds["score"]),
            "handle_ms": _milliseconds(clock.whole),
        }
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
