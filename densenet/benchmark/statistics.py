"""Summarize the measurements of several rounds by their median, minimum and maximum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Summary:
    """The median, minimum and maximum of the rounds' values, and the number of rounds."""

    median: float
    low: float
    high: float
    rounds: int


def summarize(values: Sequence[float]) -> Summary | None:
    """Summarize the values; return None if there are none."""
    return Summary(median(values), min(values), max(values), len(values)) if values else None


def ratio(dividends: Mapping[int, float], divisors: Mapping[int, float]) -> Summary | None:
    """Summarize the ratios of two measurements by round, because a slow round slows both of its values."""
    return summarize([dividends[turn] / divisors[turn] for turn in sorted(dividends) if divisors.get(turn)])
