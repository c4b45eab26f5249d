"""Oracle: judge each response against the expected one, count the verdicts, and measure recovery times."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_LIMIT_CODE = "too_costly"
_TOLERANCE = 1e-5  # of a probability; the last digits depend on the other images in a batch


class Verdict(StrEnum):
    """The verdict on a response."""

    RIGHT = "right"  # the expected answer, which may be a refusal of bad input
    REFUSED = "clean error"  # a JSON error document with a code
    WRONG = "wrong"  # an answer other than the expected one
    UNCLEAR = "unclear"  # an error that a program cannot parse
    LOST = "connection lost"
    LATE = "no answer in time"
    LEFT = "left on purpose"  # the client disconnected before the answer


BAD = (Verdict.WRONG, Verdict.UNCLEAR)
FAILED = (Verdict.REFUSED, Verdict.LOST, Verdict.LATE, *BAD)


@dataclass(frozen=True)
class Expected:
    """The response that a request must get."""

    status: int
    document: Any


@dataclass(frozen=True)
class Outcome:
    """The outcome of one request. begun, ended: time.monotonic()."""

    kind: str
    begun: float
    ended: float
    verdict: Verdict
    detail: str = ""

    @property
    def label(self) -> str:
        """Return verdict and detail, the key under which outcomes are counted."""
        return f"{self.verdict.value}: {self.detail}" if self.detail else self.verdict.value


def judge(status: int, body: bytes, expected: Expected) -> tuple[Verdict, str]:
    """Judge an HTTP response; return the verdict and a detail, the status with the error's code."""
    try:
        document = json.loads(body)
    except ValueError:
        return (Verdict.WRONG if status < 400 else Verdict.UNCLEAR), f"{status} {body[:60]!a}"
    if status < 400:
        right = status == expected.status and alike(document, expected.document)
        return (Verdict.RIGHT, str(status)) if right else (Verdict.WRONG, str(status))
    code = error_code(document)
    detail = f"{status} {code or 'without a code'}"
    if status == expected.status and alike(document, expected.document):
        return Verdict.RIGHT, detail
    if code is None:
        return Verdict.UNCLEAR, detail
    # One of our own 4xx errors blames the input, which is wrong here, unless it names a limit that the service reached.
    # TorchServe's errors blame the service.
    blames_input = status < 500 and not _is_torchserves(document) and code != _LIMIT_CODE
    return (Verdict.WRONG if blames_input else Verdict.REFUSED), detail


def error_code(document: Any) -> str | None:
    """Return our error code or TorchServe's error type; None if the document is neither kind of error."""
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if isinstance(error, dict) and "code" in error:
        return str(error["code"])
    if isinstance(error, str):  # KServe's format: "code: message"
        return error.partition(":")[0]
    return str(document["type"]) if _is_torchserves(document) else None


def _is_torchserves(document: Any) -> bool:
    return {"code", "type", "message"} <= set(document)


def alike(first: Any, second: Any) -> bool:
    """Return whether two JSON documents are equal up to the last digits of numbers."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(alike(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(alike, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return type(first) is type(second) and bool(first == second)  # in Python, True == 1


def tally(outcomes: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """Return kind of request → outcome label → count, with the kinds in alphabetical order."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.kind, Counter())[outcome.label] += 1
    return {kind: dict(counts[kind].most_common()) for kind in sorted(counts)}


def count(outcomes: Iterable[Outcome], *verdicts: Verdict) -> int:
    """Return how many outcomes have one of the verdicts."""
    return sum(outcome.verdict in verdicts for outcome in outcomes)


def seconds_to_normal(outcomes: Sequence[Outcome], injected: float, recovered: float | None) -> float | None:
    """Return the seconds from the fault to the last failed request or to recovery, whichever is later.

    Return None if the service never recovered, or if no right answer followed.
    """
    if recovered is None:
        return None
    failed = [outcome.ended for outcome in outcomes if outcome.verdict in FAILED and outcome.ended >= injected]
    normal = max([recovered, *failed])
    if not any(outcome.verdict is Verdict.RIGHT and outcome.ended >= normal for outcome in outcomes):
        return None
    return normal - injected
