"""The faults, in order, and the findings that a test of each yields."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """A fault, by the name that --only takes."""

    WORKER_KILLED = "worker-killed"
    WORKER_HUNG = "worker-hung"
    MEMORY_LIMIT = "memory-limit"
    OUT_OF_MEMORY = "out-of-memory"
    FRONT_KILLED = "front-killed"
    DISK_FULL = "disk-full"
    CORRUPT_ARCHIVE = "corrupt-archive"
    BAD_CONFIGURATION = "bad-configuration"
    CLOCK_JUMP = "clock-jump"
    QUEUE_FULL = "queue-full"
    MIXED_LOAD = "mixed-load"


class Skipped(Exception):
    """The reason why this machine cannot run a fault."""


@dataclass(frozen=True)
class Check:
    """An expectation: the required value, the measured value, and whether the requirement is met.

    The field names are keys of reliability.json.
    """

    what: str
    wanted: str
    found: str
    met: bool

    @property
    def line(self) -> str:
        """Return the line for the terminal."""
        return f"{'met' if self.met else 'NOT MET':8} {self.what}: {self.found}, required {self.wanted}"


def at_most(what: str, value: float | None, bound: float, unit: str = "") -> Check:
    """Check that a number does not exceed a bound; None means "never" and exceeds every bound."""
    text = "never" if value is None else f"{value:.4g}{unit}"
    return Check(what, f"at most {bound:g}{unit}", text, value is not None and value <= bound)


def at_least(what: str, value: float, bound: float, unit: str = "") -> Check:
    """Check that a number reaches a bound."""
    return Check(what, f"at least {bound:g}{unit}", f"{value:.4g}{unit}", value >= bound)


def equal(what: str, value: object, required: object) -> Check:
    """Check that a value equals the required one."""
    return Check(what, str(required), str(value), value == required)


@dataclass
class Finding:
    """The result of one fault.

    done: description of the fault. clients: kind of request → outcome label → count. normal_after: seconds from the
    fault until the service was back to normal. operator: lines from the log or the terminal.
    The field names are keys of reliability.json.
    """

    fault: Fault
    done: str
    clients: dict[str, dict[str, int]] = field(default_factory=dict)
    normal_after: float | None = None
    operator: Sequence[str] = ()
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)
