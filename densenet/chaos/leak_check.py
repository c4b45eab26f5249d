"""Flatness: from a process's samples over time to how much it grew, by a line through the second half of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median

from densenet.chaos.plan import Check

_FEWEST = 5  # samples in the second half, for a line to mean anything


@dataclass(frozen=True)
class Sample:
    """One look at a process. seconds: since the load began. memory: private, in MB."""

    seconds: float
    process: str
    memory: float
    files: int
    threads: int


@dataclass(frozen=True)
class Trend:
    """A line through the second half of a run: its rise over that half, the slope an hour, and the median."""

    rise: float
    hourly: float
    median: float


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Least squares over the second half, by time. None where there are too few samples to say."""
    if not seconds:
        return None
    middle = (seconds[0] + seconds[-1]) / 2
    half = [(at, value) for at, value in zip(seconds, values, strict=True) if at >= middle]
    if len(half) < _FEWEST:
        return None
    at, value = zip(*half, strict=True)
    slope = linear_regression(at, value).slope
    return Trend(slope * (at[-1] - at[0]), slope * 3600, median(value))


@dataclass(frozen=True)
class Bound:
    """What a quantity may rise by over the second half of a run, by process."""

    quantity: str
    unit: str
    front_end: float
    worker: float


# A leak of a kilobyte a request is 15 MB in half an hour of 15 requests a second. The heap of the front end breathes
# with its garbage collector, and connections come and go.
BOUNDS = (
    Bound("memory", " MB", front_end=50, worker=15),
    Bound("files", "", front_end=10, worker=2),
    Bound("threads", "", front_end=4, worker=1),
)
FRONT_END = "front end"


def checks(samples: Sequence[Sample]) -> list[Check]:
    """For every process and quantity: that its line does not rise by more than the bound."""
    found = []
    for process in dict.fromkeys(sample.process for sample in samples):
        own = [sample for sample in samples if sample.process == process]
        for bound in BOUNDS:
            line = trend([sample.seconds for sample in own], [getattr(sample, bound.quantity) for sample in own])
            most = bound.front_end if process == FRONT_END else bound.worker
            found.append(_check(process, bound, most, line))
    return found


def _check(process: str, bound: Bound, most: float, line: Trend | None) -> Check:
    what = f"{process}: rise of {bound.quantity} over the second half"
    wanted = f"at most {most:g}{bound.unit}"
    if line is None:
        return Check(what, wanted, "too few samples", False)
    told = (
        f"{line.rise:+.1f}{bound.unit} ({line.hourly:+.1f}{bound.unit} an hour, median {line.median:.0f}{bound.unit})"
    )
    return Check(what, wanted, told, line.rise <= most)
