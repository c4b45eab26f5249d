"""The plan: which systems are measured under which loads, in which order, and the estimated duration."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from export import Precision

T = TypeVar("T")

# A precision is measured only if /proc/cpuinfo has one of these flags.
_NEEDS = {"bf16": {"avx512_bf16", "amx_bf16"}}
_FP32, _INT8, _BF16 = "fp32", "int8", "bf16"


class Part(StrEnum):
    """A part of the benchmark that can be run separately."""

    NETWORK = "network"
    DECODING = "decoding"
    HTTP = "http"
    WORKERS = "workers"
    OVERLOAD = "overload"
    GPU = "gpu"


class System(StrEnum):
    """A system that computes or serves the network."""

    OURS = "ours"
    EAGER = "eager"
    FLASK = "flask"
    GUNICORN = "gunicorn"
    STOCK = "torchserve"
    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True)
class Size:
    """The size of a photo, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


SMALL, MEDIUM, LARGE = Size(500, 335), Size(1920, 1080), Size(4000, 3000)


@dataclass(frozen=True)
class Load:
    """A number of clients, each of which sends the next photo as soon as the last one was answered."""

    size: Size
    clients: int

    def __str__(self) -> str:
        return f"{self.size}, {self.clients}"


LOADS = (*(Load(SMALL, clients) for clients in (1, 2, 8, 32)), *(Load(LARGE, clients) for clients in (1, 2)))
QUICK_LOADS = (Load(SMALL, 1), Load(SMALL, 8), Load(LARGE, 1))
_SCALING_LOADS = (Load(SMALL, 1), Load(SMALL, 8))  # for comparing one worker with two


@dataclass(frozen=True)
class Engine:
    """A network without HTTP."""

    system: System
    precision: str

    @property
    def name(self) -> str:
        """Return the name in the report."""
        return f"{self.system} {self.precision}"


@dataclass(frozen=True)
class ServedSystem:
    """A network served over HTTP. Each worker has one thread unless the system manages its own, as ours does."""

    system: System
    precision: str
    workers: int
    loads: tuple[Load, ...] = LOADS

    @property
    def name(self) -> str:
        """Return the name on the command line and in the report."""
        return f"{self.system}-{self.precision}-{self.workers}"


@dataclass(frozen=True)
class Effort:
    """The amount of measuring: rounds, seconds per load, and the loads."""

    rounds: int
    seconds: int
    loads: tuple[Load, ...] = LOADS


def precisions(flags: Collection[str]) -> list[str]:
    """Return the precisions that this project exports and a processor with these flags supports."""
    on_processors = (Precision.FP32, Precision.BF16, Precision.INT8)
    return [precision.value for precision in on_processors if _supported(precision.value, flags)]


# Precisions of the parts workers and overload, where bf16 is no case of its own.
SCALED = (_FP32, _INT8)


def engines(flags: Collection[str]) -> list[Engine]:
    """Return the engines to compare on a processor with these flags."""
    baselines = [(System.OPENVINO, p) for p in (_FP32, _INT8, _BF16)] + [
        (System.ONNXRUNTIME, p) for p in (_FP32, _INT8)
    ]
    every = [(System.EAGER, _FP32), *((System.OURS, precision) for precision in precisions(flags)), *baselines]
    return [Engine(system, precision) for system, precision in every if _supported(precision, flags)]


def served_systems(flags: Collection[str]) -> list[ServedSystem]:
    """Return the services to compare on a processor with these flags."""
    served = precisions(flags)
    tutorials = [ServedSystem(System.FLASK, _FP32, 1), ServedSystem(System.GUNICORN, _FP32, 2)]
    ours = [
        ServedSystem(System.OURS, precision, workers, LOADS if workers > 1 else _SCALING_LOADS)
        for precision in served
        for workers in (1, 2)
    ]
    baselines = [ServedSystem(System.OPENVINO, p, 2) for p in served]
    baselines += [ServedSystem(System.ONNXRUNTIME, p, 2) for p in (_FP32, _INT8)]
    return [*tutorials, *ours, ServedSystem(System.STOCK, _FP32, 2), *baselines]


def loads(served: ServedSystem, effort: Effort) -> list[Load]:
    """Return the loads for a served system."""
    return [load for load in effort.loads if load in served.loads]


def in_order(items: Sequence[T], turn: int) -> list[T]:
    """Rotate the items in each round and reverse them in every other one, so that drift favours none of them."""
    start = turn % len(items) if items else 0
    rotated = [*items[start:], *items[:start]]
    return rotated[::-1] if turn % 2 else rotated


def minutes(parts: Collection[Part], chosen: Sequence[ServedSystem], effort: Effort) -> float:
    """Estimate the minutes of a run from the times its steps took on two cores."""
    load_seconds = effort.seconds + 2  # with locust's start, its ramp and the last answers
    each = {
        Part.NETWORK: 45 + 20 * effort.rounds,
        Part.DECODING: 5 + 10 * effort.rounds,
        Part.HTTP: effort.rounds * sum(10 + load_seconds * len(loads(served, effort)) for served in chosen),
        Part.WORKERS: 2 * (10 + 5 * effort.rounds),
        Part.OVERLOAD: 2 * effort.rounds * (28 + 2 * load_seconds),
        Part.GPU: 0,  # without a GPU; with one a few minutes, mostly compiling
    }
    preparing = 80
    return (preparing + sum(each[part] for part in parts)) / 60


def _supported(precision: str, flags: Collection[str]) -> bool:
    needed = _NEEDS.get(precision)
    return needed is None or not needed.isdisjoint(flags)
