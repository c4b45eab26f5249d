"""The plan: which faults there are, in which order, and what a test of each finds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """What goes wrong, by the name that --only takes."""

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
    """Why a fault cannot be tried on this machine."""


@dataclass(frozen=True)
class Check:
    """An expectation: what was wanted, what was found, and whether that will do."""

    what: str
    wanted: str
    found: str
    met: bool

    @property
    def line(self) -> str:
        """For the terminal."""
        return f"{'met' if self.met else 'NOT MET':8} {self.what}: {self.found}, wanted {self.wanted}"


def at_most(what: str, found: float | None, bound: float, unit: str = "") -> Check:
    """A number that must not exceed a bound; None stands for without end, and does."""
    told = "never" if found is None else f"{found:.4g}{unit}"
    return Check(what, f"at most {bound:g}{unit}", told, found is not None and found <= bound)


def at_least(what: str, found: float, bound: float, unit: str = "") -> Check:
    """A number that must reach a bound."""
    return Check(what, f"at least {bound:g}{unit}", f"{found:.4g}{unit}", found >= bound)


def equal(what: str, found: object, wanted: object) -> Check:
    """A value that must be this one."""
    return Check(what, str(wanted), str(found), found == wanted)


@dataclass
class Finding:
    """What one fault led to.

    done: in a sentence. clients: kind of request → what became of it → how often. normal_after: seconds from the
    fault until everything was as before. operator: what stands in the log or on the terminal.
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

    @property
    def met(self) -> bool:
        """Whether every expectation was; of what was skipped there is none."""
        return all(check.met for check in self.checks)
