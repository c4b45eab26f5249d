"""Spread: from what rounds have measured to a median and how far they lie apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """The median of some rounds' values, the lowest and the highest of them, and how many there were."""

    median: float
    low: float
    high: float
    rounds: int


def spread(values: Sequence[float]) -> Spread | None:
    """None where nothing was measured."""
    return Spread(median(values), min(values), max(values), len(values)) if values else None


def ratio(dividends: Mapping[int, float], divisors: Mapping[int, float]) -> Spread | None:
    """The quotients of two measurements by round: what slows a round down slows both of its values."""
    return spread([dividends[turn] / divisors[turn] for turn in sorted(dividends) if divisors.get(turn)])
