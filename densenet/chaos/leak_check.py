"""Leak check: fit a line through the second half of a process's samples and bound its rise."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median

from densenet.chaos.plan import Check

_MIN_SAMPLES = 5  # in the second half; fewer do not give a meaningful line


@dataclass(frozen=True)
class Sample:
    """One measurement of a process. seconds: since the load began. memory: private, in MB."""

    seconds: float
    process: str
    memory: float
    files: int
    threads: int


@dataclass(frozen=True)
class Trend:
    """A line through the second half of a run: its rise over that half, its slope per hour, and the median value."""

    rise: float
    hourly: float
    median: float


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Fit a least-squares line to the second half of a run, by time. Return None if there are too few samples."""
    if not seconds:
        return None
    middle = (seconds[0] + seconds[-1]) / 2
    half = [(at, value) for at, value in zip(seconds, values, strict=True) if at >= middle]
    if len(half) < _MIN_SAMPLES:
        return None
    at, value = zip(*half, strict=True)
    slope = linear_regression(at, value).slope
    return Trend(slope * (at[-1] - at[0]), slope * 3600, median(value))


@dataclass(frozen=True)
class Bound:
    """The maximum rise of a quantity over the second half of a run, by kind of process."""

    quantity: str
    unit: str
    front_end: float
    worker: float


# At 15 requests per second, a leak of one kilobyte per request adds 15 MB in 15 minutes. The front end gets wider
# bounds because its garbage collector and its connections make these quantities fluctuate.
BOUNDS = (
    Bound("memory", " MB", front_end=50, worker=15),
    Bound("files", "", front_end=10, worker=2),
    Bound("threads", "", front_end=4, worker=1),
)
FRONT_END = "front end"


def checks(samples: Sequence[Sample]) -> list[Check]:
    """Return a check for every process and quantity that its line rises by no more than the bound."""
    results = []
    for process in dict.fromkeys(sample.process for sample in samples):
        own = [sample for sample in samples if sample.process == process]
        for bound in BOUNDS:
            line = trend([sample.seconds for sample in own], [getattr(sample, bound.quantity) for sample in own])
            maximum = bound.front_end if process == FRONT_END else bound.worker
            results.append(_check(process, bound, maximum, line))
    return results


def _check(process: str, bound: Bound, maximum: float, line: Trend | None) -> Check:
    what = f"{process}: rise of {bound.quantity} over the second half"
    required = f"at most {maximum:g}{bound.unit}"
    if line is None:
        return Check(what, required, "too few samples", False)
    measured = (
        f"{line.rise:+.1f}{bound.unit} ({line.hourly:+.1f}{bound.unit} per hour, median {line.median:.0f}{bound.unit})"
    )
    return Check(what, required, measured, line.rise <= maximum)
