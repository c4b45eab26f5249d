"""Targets for the speed on two cores, by processor, and whether the numbers of a run meet them."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from densenet.benchmark import plan
from densenet.benchmark.plan import LARGE, SMALL, Engine, Load, Part, ServedSystem, System
from densenet.benchmark.record import OVERHEAD
from densenet.benchmark.statistics import Summary, ratio, summarize

Document = Mapping[str, Any]
"""The content of performance.json, written by record.py."""
_MET, _MISSED, _OPEN = "met", "not met", "not measured"

_FLASK = ServedSystem(System.FLASK, "fp32", 1)
_STOCK = ServedSystem(System.STOCK, "fp32", 2)
_BUSY, _ALONE, _PHONE = Load(SMALL, 8), Load(SMALL, 1), Load(LARGE, 1)
_BOTH = ("fp32", "int8")
# Maximum private memory of a worker in megabytes: with torch's CPU build, and, by precision, with its CUDA build, whose
# libraries take 90 even without a GPU.
_MEMORY, _MEMORY_WITH_CUDA = 320, {"fp32": 430, "int8": 350}
# Maximum milliseconds outside oneDNN's kernels, by precision. In fp32 the kernels take most of a pass.
_OUTSIDE = {"int8": 3.5, "bf16": 4}


@dataclass(frozen=True)
class Target:
    """A number and its bound. is_maximum: whether the bound is a maximum; otherwise it is a minimum."""

    what: str
    bound: float
    unit: str
    measure: Callable[[Document], Summary | None]
    is_maximum: bool = False


@dataclass(frozen=True)
class Verdict:
    """A target and the summary of its measurements, whose median decides."""

    target: Target
    summary: Summary | None

    @property
    def word(self) -> str:
        """Return "met", "not met" or "not measured"."""
        if self.summary is None:
            return _OPEN
        median, bound = self.summary.median, self.target.bound
        return _MET if (median <= bound if self.target.is_maximum else median >= bound) else _MISSED

    @property
    def required(self) -> str:
        """Return the bound in words."""
        return f"{'at most' if self.target.is_maximum else 'at least'} {self.target.bound:g}{self.target.unit}"

    @property
    def measured(self) -> str:
        """Return the number in words, with minimum and maximum if there are several rounds."""
        return "-" if self.summary is None else in_words(self.summary, self.target.unit)

    @property
    def line(self) -> str:
        """Return the line for the terminal."""
        return f"{self.word:12}  {self.target.what}: {self.measured}, required {self.required}"


def in_words(summary: Summary, unit: str = "") -> str:
    """Format a summary as "3.52× (3.41 to 3.60)"."""
    text = _number(summary.median) + (unit if summary.median < math.inf else "")
    return text if summary.rounds == 1 else f"{text} ({_number(summary.low)} to {_number(summary.high)})"


def seconds_to_normal(row: Mapping[str, Any]) -> float:
    """Return the recovery time of an overload row; infinity if the service never recovered."""
    seconds: float | None = row["seconds_to_normal"]
    return math.inf if seconds is None else seconds


def judge(document: Document) -> list[Verdict]:
    """Return the verdicts on all targets of the document's machine, in order."""
    return [Verdict(target, target.measure(document)) for target in for_machine(document["machine"])]


def for_machine(machine: Mapping[str, Any]) -> list[Target]:
    """Return the targets for a machine, from its description in a document."""
    return [*_speed(machine["flags"]), *_scaling(machine["versions"].get("torch", "")), *_overload()]


def http(document: Document, served: ServedSystem, load: Load, key: str) -> dict[int, float]:
    """Return one number of a system under a load, by round."""
    rows = (row for row in document[Part.HTTP] if (row["contender"], row["load"]) == (served.name, str(load)))
    return {row["round"]: row[key] for row in rows}


def network(document: Document, engine: Engine, threads: int) -> dict[int, float]:
    """Return an engine's milliseconds for one image, by round."""
    rows = (row for row in document[Part.NETWORK] if (row["engine"], row["threads"]) == (engine.name, threads))
    return {row["round"]: row["milliseconds"] for row in rows}


def _ours(precision: str) -> ServedSystem:
    return ServedSystem(System.OURS, precision, 2)


def _openvino(precision: str) -> ServedSystem:
    return ServedSystem(System.OPENVINO, precision, 2)


def _faster(ours: ServedSystem, theirs: ServedSystem, load: Load = _BUSY) -> Callable[[Document], Summary | None]:
    """Return a function that computes the ratio of our throughput to theirs."""

    def measure(document: Document) -> Summary | None:
        rates = (http(document, served, load, "throughput") for served in (ours, theirs))
        return ratio(*rates)

    return measure


def _share(ours: ServedSystem, theirs: ServedSystem, load: Load) -> Callable[[Document], Summary | None]:
    """Return a function that computes the ratio of our median time to theirs."""

    def measure(document: Document) -> Summary | None:
        return ratio(*(http(document, served, load, "p50") for served in (ours, theirs)))

    return measure


def _network_faster(precision: str) -> Callable[[Document], Summary | None]:
    theirs, ours = (Engine(system, precision) for system in (System.OPENVINO, System.OURS))
    return lambda document: ratio(network(document, theirs, 1), network(document, ours, 1))


def _has_amx(precision: str, flags: Collection[str]) -> bool:
    """Return whether a processor with these flags computes this precision with AMX."""
    return f"amx_{precision}" in flags


def _of_rows(part: str, precision: str, value: Callable[[Mapping[str, Any]], float]) -> Callable[..., Summary | None]:
    """Return a function that summarizes a value over a part's, or the overhead's, rows of one precision."""
    return lambda document: summarize([value(row) for row in document[part] if row["precision"] == precision])


def _number(value: float) -> str:
    if value == math.inf:
        return "never"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _speed(flags: Collection[str]) -> Iterator[Target]:
    yield Target("throughput, 8 clients, fp32 against the Flask tutorial", 3.5, "×", _faster(_ours("fp32"), _FLASK))
    yield Target("throughput, 8 clients, int8 against the Flask tutorial", 8, "×", _faster(_ours("int8"), _FLASK))
    yield Target("throughput, 8 clients, fp32 against TorchServe's handler", 2.5, "×", _faster(_ours("fp32"), _STOCK))
    for p in (*_BOTH, *(["bf16"] if _has_amx("bf16", flags) else [])):
        bound = 1.1 if p == "int8" and _has_amx(p, flags) else 1
        what = f"throughput, 8 clients, {p} against OpenVINO behind uvicorn"
        yield Target(what, bound, "×", _faster(_ours(p), _openvino(p)))
    for p in plan.precisions(flags):
        bound = 0.9 if _has_amx(p, flags) else 1
        yield Target(f"network without HTTP, 1 thread, {p} against OpenVINO", bound, "×", _network_faster(p))
    for p in [p for p in plan.precisions(flags) if p in _OUTSIDE]:
        outside = _of_rows(OVERHEAD, p, lambda row: row["outside_ms"])
        what = f"network without HTTP, 1 thread, {p}: time outside kernels"
        yield Target(what, _OUTSIDE[p], " ms", outside, is_maximum=True)
    time = " of its time"
    what = "median time, 1 client, int8 against the Flask tutorial"
    yield Target(what, 0.2, time, _share(_ours("int8"), _FLASK, _ALONE), is_maximum=True)
    what = "median time, 1 client, fp32 against OpenVINO"
    yield Target(what, 0.7, time, _share(_ours("fp32"), _openvino("fp32"), _ALONE), is_maximum=True)
    for p in _BOTH:
        what = f"median time, 12 megapixels, 1 client, {p} against the Flask tutorial"
        yield Target(what, 0.25, time, _share(_ours(p), _FLASK, _PHONE), is_maximum=True)
    for p in _BOTH:
        what = f"median time, 12 megapixels, 1 client, {p} against OpenVINO"
        yield Target(what, 1, time, _share(_ours(p), _openvino(p), _PHONE), is_maximum=True)


def _scaling(torch: str) -> Iterator[Target]:
    """Yield the targets of workers. torch: its version."""
    # The CPU builds of PyTorch's own index say so in their version.
    cpu_build = torch.endswith("+cpu")
    for p in _BOTH:
        seconds = _of_rows(Part.WORKERS, p, lambda row: row["seconds"])
        yield Target(f"one more worker, {p}: ready after the request", 8, " s", seconds, is_maximum=True)
    for p in _BOTH:
        memory = _of_rows(Part.WORKERS, p, lambda row: row["private_mb"])
        bound = _MEMORY if cpu_build else _MEMORY_WITH_CUDA[p]
        yield Target(f"one more worker, {p}: private memory", bound, " MB", memory, is_maximum=True)


def _overload() -> Iterator[Target]:
    for p in _BOTH:
        unclear = _of_rows(Part.OVERLOAD, p, lambda row: row["unclear"])
        yield Target(f"200 clients, {p}: answers neither right nor a clear 503", 0, "", unclear, is_maximum=True)
        kept = _of_rows(Part.OVERLOAD, p, lambda row: row["throughput"] / row["best"])
        yield Target(f"200 clients, {p}: throughput against its best", 0.9, "×", kept)
        back = _of_rows(Part.OVERLOAD, p, seconds_to_normal)
        yield Target(f"200 clients, {p}: back to normal after the end", 1, " s", back, is_maximum=True)
