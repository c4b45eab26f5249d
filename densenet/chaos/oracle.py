"""Judging: from what came back to what it is worth, and from many of those to counts and seconds."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_TOLERANCE = 1e-5  # of a probability; what else is in a batch decides on the last digits


class Verdict(StrEnum):
    """What an answer is worth."""

    RIGHT = "right"  # the known answer, which may be a refusal of bad input
    REFUSED = "clean error"  # no answer, but a JSON document that says so
    WRONG = "wrong"  # an answer, and not the known one
    UNCLEAR = "unclear"  # an error that no program could read
    LOST = "connection lost"
    LATE = "no answer in time"
    LEFT = "left on purpose"  # the client went before there could be one


BAD = (Verdict.WRONG, Verdict.UNCLEAR)
FAILED = (Verdict.REFUSED, Verdict.LOST, Verdict.LATE, *BAD)


@dataclass(frozen=True)
class Known:
    """The answer that a question is to have."""

    status: int
    document: Any


@dataclass(frozen=True)
class Outcome:
    """What became of one request. begun, ended: time.monotonic()."""

    kind: str
    begun: float
    ended: float
    verdict: Verdict
    detail: str = ""

    @property
    def label(self) -> str:
        """Verdict and detail, as they are counted."""
        return f"{self.verdict.value}: {self.detail}" if self.detail else self.verdict.value


def judge(status: int, body: bytes, known: Known) -> tuple[Verdict, str]:
    """What an HTTP answer is worth, and its status with the error's code."""
    try:
        document = json.loads(body)
    except ValueError:
        return (Verdict.WRONG if status < 400 else Verdict.UNCLEAR), f"{status} {body[:60]!a}"
    if status < 400:
        right = status == known.status and alike(document, known.document)
        return (Verdict.RIGHT, str(status)) if right else (Verdict.WRONG, str(status))
    code = error_code(document)
    detail = f"{status} {code or 'without a code'}"
    if status == known.status and alike(document, known.document):
        return Verdict.RIGHT, detail
    if code is None:
        return Verdict.UNCLEAR, detail
    # A refusal in our own words says that the input was bad. TorchServe's say that the service is.
    return (Verdict.WRONG if status < 500 and not _is_torchserves(document) else Verdict.REFUSED), detail


def error_code(document: Any) -> str | None:
    """Our stable code, or the type that TorchServe names; None where the document is no error of either."""
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if isinstance(error, dict) and "code" in error:
        return str(error["code"])
    if isinstance(error, str):  # KServe's shape; a word before the colon is the code
        return error.partition(":")[0]
    return str(document["type"]) if _is_torchserves(document) else None


def _is_torchserves(document: Any) -> bool:
    return {"code", "type", "message"} <= set(document)


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON documents are equal but for the last digits of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return type(one) is type(other) and bool(one == other)  # True is no 1


def tally(outcomes: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """Kind of request → what became of it → how often; the kinds in alphabetical order."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.kind, Counter())[outcome.label] += 1
    return {kind: dict(counts[kind].most_common()) for kind in sorted(counts)}


def count(outcomes: Iterable[Outcome], *verdicts: Verdict) -> int:
    """How many are of one of these verdicts."""
    return sum(outcome.verdict in verdicts for outcome in outcomes)


def seconds_to_normal(outcomes: Sequence[Outcome], injected: float, recovered: float | None) -> float | None:
    """From the fault to the end of the last failed request, or, if that was later, to when the service was whole.

    None where it never was, or where nothing was answered rightly afterwards.
    """
    if recovered is None:
        return None
    failed = [outcome.ended for outcome in outcomes if outcome.verdict in FAILED and outcome.ended >= injected]
    normal = max([recovered, *failed])
    if not any(outcome.verdict is Verdict.RIGHT and outcome.ended >= normal for outcome in outcomes):
        return None
    return normal - injected
