"""Time a call, and summarize the measurements of several rounds by their median, minimum and maximum."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Summary:
    """The median, minimum and maximum of the rounds' values, and the number of rounds."""

    median: float
    low: float
    high: float
    rounds: int


def summarize(values: Sequence[float]) -> Summary | None:
    """Time a call, and summarize the values; return None if there are none."""
    return Summary(median(values), min(values), max(values), len(values)) if values else None


def ratio(dividends: Mapping[int, float], divisors: Mapping[int, float]) -> Summary | None:
    """Summarize the ratios of two measurements by round, because a slow round slows both of its values."""
    return summarize([dividends[turn] / divisors[turn] for turn in sorted(dividends) if divisors.get(turn)])


def milliseconds(function: Callable[[T], object], argument: T) -> float:
    """Call a function and return how long it took."""
    begun = time.perf_counter()
    function(argument)
    return 1000 * (time.perf_counter() - begun)
