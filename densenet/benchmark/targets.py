"""Targets: what was promised of the speed on two cores, and whether a run's numbers keep it."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from densenet.benchmark.plan import LARGE, SMALL, Contender, Engine, Load, Part, System
from densenet.benchmark.statistics import Spread, ratio, spread

Document = Mapping[str, Any]
"""What record.py writes."""
_MET, _MISSED, _OPEN = "met", "not met", "not measured"

_FLASK = Contender(System.FLASK, "fp32", 1)
_STOCK = Contender(System.STOCK, "fp32", 2)
_BUSY, _ALONE, _PHONE = Load(SMALL, 8), Load(SMALL, 1), Load(LARGE, 1)
_BOTH = ("fp32", "int8")
# Megabytes of a worker's private memory at most, by precision.
_MEMORY = {"fp32": 430, "int8": 350}


@dataclass(frozen=True)
class Target:
    """A number and its bound. `most`: whether the bound is the greatest allowed, rather than the least."""

    what: str
    bound: float
    unit: str
    found: Callable[[Document], Spread | None]
    most: bool = False


@dataclass(frozen=True)
class Verdict:
    """A target, what was found and what follows from its median."""

    target: Target
    found: Spread | None

    @property
    def word(self) -> str:
        """met, not met, or not measured."""
        if self.found is None:
            return _OPEN
        kept = self.found.median <= self.target.bound if self.target.most else self.found.median >= self.target.bound
        return _MET if kept else _MISSED

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return f"{'at most' if self.target.most else 'at least'} {self.target.bound:g}{self.target.unit}"

    @property
    def measured(self) -> str:
        """The number in words, with its spread where there is one."""
        return "-" if self.found is None else in_words(self.found, self.target.unit)

    @property
    def line(self) -> str:
        """For the terminal."""
        return f"{self.word:12}  {self.target.what}: {self.measured}, wanted {self.wanted}"


def in_words(found: Spread, unit: str = "") -> str:
    """3.52× (3.41 to 3.60)."""
    text = _number(found.median) + (unit if found.median < math.inf else "")
    return text if found.rounds == 1 else f"{text} ({_number(found.low)} to {_number(found.high)})"


def seconds_to_normal(row: Mapping[str, Any]) -> float:
    """Of a row of the overload; without end where it never was."""
    found: float | None = row["seconds_to_normal"]
    return math.inf if found is None else found


def judge(document: Document) -> list[Verdict]:
    """All targets, in the order of the promise."""
    return [Verdict(target, target.found(document)) for target in TARGETS]


def http(document: Document, contender: Contender, load: Load, key: str) -> dict[int, float]:
    """By round, one number of a contender under a load."""
    rows = (row for row in document[Part.HTTP] if (row["contender"], row["load"]) == (contender.name, str(load)))
    return {row["round"]: row[key] for row in rows}


def network(document: Document, engine: Engine, threads: int) -> dict[int, float]:
    """By round, an engine's milliseconds for one image."""
    rows = (row for row in document[Part.NETWORK] if (row["engine"], row["threads"]) == (engine.name, threads))
    return {row["round"]: row["milliseconds"] for row in rows}


def _ours(precision: str, workers: int = 2) -> Contender:
    return Contender(System.OURS, precision, workers)


def _faster(ours: Contender, theirs: Contender, load: Load = _BUSY) -> Callable[[Document], Spread | None]:
    """How many times their throughput ours is."""

    def found(document: Document) -> Spread | None:
        rates = (http(document, contender, load, "throughput") for contender in (ours, theirs))
        return ratio(*rates)

    return found


def _share(ours: Contender, theirs: Contender, load: Load) -> Callable[[Document], Spread | None]:
    """What part of their median time ours is."""

    def found(document: Document) -> Spread | None:
        return ratio(*(http(document, contender, load, "p50") for contender in (ours, theirs)))

    return found


def _network_faster(precision: str) -> Callable[[Document], Spread | None]:
    theirs, ours = (Engine(system, precision) for system in (System.OPENVINO, System.OURS))
    return lambda document: ratio(network(document, theirs, 1), network(document, ours, 1))


def _of_rows(part: Part, precision: str, value: Callable[[Mapping[str, Any]], float]) -> Callable[..., Spread | None]:
    """The spread of a value over the rows of a part that are of a precision."""
    return lambda document: spread([value(row) for row in document[part] if row["precision"] == precision])


def _number(value: float) -> str:
    if value == math.inf:
        return "never"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _speed() -> Iterator[Target]:
    yield Target("throughput, 8 clients, fp32 against the Flask tutorial", 3.5, "×", _faster(_ours("fp32"), _FLASK))
    yield Target("throughput, 8 clients, int8 against the Flask tutorial", 8, "×", _faster(_ours("int8"), _FLASK))
    yield Target("throughput, 8 clients, fp32 against TorchServe's handler", 2.5, "×", _faster(_ours("fp32"), _STOCK))
    for p in _BOTH:
        peer = Contender(System.OPENVINO, p, 2)
        yield Target(f"throughput, 8 clients, {p} against OpenVINO behind uvicorn", 1, "×", _faster(_ours(p), peer))
    for p in _BOTH:
        yield Target(f"network alone, 1 thread, {p} against OpenVINO", 1, "×", _network_faster(p))
    time = " of its time"
    what = "median time, 1 client, int8 against the Flask tutorial"
    yield Target(what, 0.2, time, _share(_ours("int8"), _FLASK, _ALONE), most=True)
    for p in _BOTH:
        what = f"median time, 12 megapixels, 1 client, {p} against the Flask tutorial"
        yield Target(what, 0.25, time, _share(_ours(p), _FLASK, _PHONE), most=True)


def _scaling() -> Iterator[Target]:
    for p in _BOTH:
        faster = _faster(_ours(p), _ours(p, workers=1))
        yield Target(f"throughput, 8 clients, {p}, 2 workers against 1", 1.9, "×", faster)
    for p in _BOTH:
        seconds = _of_rows(Part.WORKERS, p, lambda row: row["seconds"])
        yield Target(f"one more worker, {p}: ready after the request", 8, " s", seconds, most=True)
    for p in _BOTH:
        memory = _of_rows(Part.WORKERS, p, lambda row: row["private_mb"])
        yield Target(f"one more worker, {p}: private memory", _MEMORY[p], " MB", memory, most=True)


def _overload() -> Iterator[Target]:
    for p in _BOTH:
        unclear = _of_rows(Part.OVERLOAD, p, lambda row: row["unclear"])
        yield Target(f"200 clients, {p}: answers neither right nor a clear 503", 0, "", unclear, most=True)
        kept = _of_rows(Part.OVERLOAD, p, lambda row: row["throughput"] / row["best"])
        yield Target(f"200 clients, {p}: throughput against its best", 0.9, "×", kept)
        back = _of_rows(Part.OVERLOAD, p, seconds_to_normal)
        yield Target(f"200 clients, {p}: back to normal after the end", 1, " s", back, most=True)


TARGETS = (*_speed(), *_scaling(), *_overload())
