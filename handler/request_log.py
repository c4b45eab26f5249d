"""Log one JSON line per request, if logs are JSON. It contains nothing of the request's content.

TorchServe copies the line from the worker's output to its log. The line begins with a brace, so TorchServe never
mistakes it for a command.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

from handler.metrics import Clock, CompletedRequest, error_codes, outcome_of
from handler.payload import Row
from handler.results import ImageResult

VARIABLE = "DENSENET_LOG_FORMAT"  # environment variable; log4j2.xml reads it, too
HEADER = "X-Correlation-Id"  # response header; TorchServe overwrites X-Request-Id with its own id
_NAMES = ("x-request-id", "x-correlation-id")
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
TRACE = "traceparent"  # request and response header: https://www.w3.org/TR/trace-context/#traceparent-header
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_enabled() -> bool:
    """Return whether this worker's service logs JSON."""
    return os.environ.get(VARIABLE) == "json"


def correlation_id(headers: Mapping[str, str]) -> str | None:
    """Return the client's own id for its request, if it is valid in a header. headers: by lower-case name."""
    candidates = (headers[name] for name in _NAMES if name in headers)
    return next((value for value in candidates if _ID.fullmatch(value)), None)


def trace(headers: Mapping[str, str]) -> str | None:
    """Return the request's position in a trace, if it is valid. headers: by lower-case name."""
    value = headers.get(TRACE, "")
    return value if _TRACE.fullmatch(value) else None


def line(completed: CompletedRequest, clock: Clock, row: Row, version: str, batch: int) -> str:
    """Return one request's line. Durations, in milliseconds, are those of its batch of `batch` requests."""
    outcomes = Counter(outcome_of(outcome, completed.min_probability) for outcome in completed.outcomes)
    results = [outcome for outcome in completed.outcomes if outcome_of(outcome, 0) != "refused"]
    best = [result.predictions[0] for result in results if isinstance(result, ImageResult)]
    return json.dumps(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": row.request_id,
            "caller": correlation_id(row.headers),
            "traceparent": trace(row.headers),
            "version": version,
            "protocol": completed.reply.protocol,
            "status": completed.reply.status,
            "images": len(completed.outcomes),
            "outcomes": outcomes,
            "classes": [prediction.class_id for prediction in best],
            "probabilities": [round(prediction.probability, 4) for prediction in best],
            "codes": sorted({code.value for code in error_codes(completed)}),
            "batch": batch,
            "decode_ms": _milliseconds(clock.seconds["decode"]),
            "transform_ms": _milliseconds(clock.seconds["transform"]),
            "score_ms": _milliseconds(clock.seconds["score"]),
            "handle_ms": _milliseconds(clock.total),
        }
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
