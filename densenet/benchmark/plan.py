"""The plan: who is measured under which load, in which order, and about how long that takes. All of it is data."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from export import Precision

T = TypeVar("T")

# Flags of /proc/cpuinfo, one of which a precision needs to be worth measuring.
_NEEDS = {"bf16": {"avx512_bf16", "amx_bf16"}}
_FP32, _INT8, _BF16 = "fp32", "int8", "bf16"


class Part(StrEnum):
    """What can be measured by itself."""

    NETWORK = "network"
    DECODING = "decoding"
    HTTP = "http"
    WORKERS = "workers"
    OVERLOAD = "overload"
    GPU = "gpu"


class System(StrEnum):
    """Who computes or serves."""

    OURS = "ours"
    EAGER = "eager"
    FLASK = "flask"
    GUNICORN = "gunicorn"
    STOCK = "torchserve"
    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True)
class Size:
    """Of a photo, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


SMALL, MEDIUM, LARGE = Size(500, 335), Size(1920, 1080), Size(4000, 3000)


@dataclass(frozen=True)
class Load:
    """So many clients, each of whom sends the next photo as soon as the last one was answered."""

    size: Size
    clients: int

    def __str__(self) -> str:
        return f"{self.size}, {self.clients}"


LOADS = (*(Load(SMALL, clients) for clients in (1, 2, 8, 32)), *(Load(LARGE, clients) for clients in (1, 2)))
QUICK_LOADS = (Load(SMALL, 1), Load(SMALL, 8), Load(LARGE, 1))
_SCALING_LOADS = (Load(SMALL, 1), Load(SMALL, 8))  # what a second worker is compared by


@dataclass(frozen=True)
class Engine:
    """A network without HTTP."""

    system: System
    precision: str

    @property
    def name(self) -> str:
        """As in the report."""
        return f"{self.system} {self.precision}"


@dataclass(frozen=True)
class Contender:
    """A network behind HTTP; each worker has one thread except where the system has its own way."""

    system: System
    precision: str
    workers: int
    loads: tuple[Load, ...] = LOADS

    @property
    def name(self) -> str:
        """As on the command line and in the report."""
        return f"{self.system}-{self.precision}-{self.workers}"


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds, seconds of each load in a round, and which loads."""

    rounds: int
    seconds: int
    loads: tuple[Load, ...] = LOADS


def precisions(flags: Collection[str]) -> list[str]:
    """What this project exports and a processor with these flags can compute in."""
    on_processors = (Precision.FP32, Precision.BF16, Precision.INT8)
    return [one.value for one in on_processors if _supported(one.value, flags)]


# Those that are served: the targets' own. What bf16 would be over HTTP follows from the network alone.
SERVED = (_FP32, _INT8)


def engines(flags: Collection[str]) -> list[Engine]:
    """The networks to compare on a processor with these flags; what is compared stands side by side."""
    peers = [(System.OPENVINO, p) for p in (_FP32, _INT8, _BF16)] + [(System.ONNXRUNTIME, p) for p in (_FP32, _INT8)]
    every = [(System.EAGER, _FP32), *((System.OURS, one) for one in precisions(flags)), *peers]
    return [Engine(system, precision) for system, precision in every if _supported(precision, flags)]


def contenders() -> list[Contender]:
    """The services to compare."""
    tutorials = [Contender(System.FLASK, _FP32, 1), Contender(System.GUNICORN, _FP32, 2)]
    ours = [
        Contender(System.OURS, precision, workers, LOADS if workers > 1 else _SCALING_LOADS)
        for precision in SERVED
        for workers in (1, 2)
    ]
    peers = [Contender(system, one, 2) for system in (System.OPENVINO, System.ONNXRUNTIME) for one in SERVED]
    return [*tutorials, *ours, Contender(System.STOCK, _FP32, 2), *peers]


def loads(contender: Contender, effort: Effort) -> list[Load]:
    """What the contender is put under."""
    return [load for load in effort.loads if load in contender.loads]


def in_order(items: Sequence[T], turn: int) -> list[T]:
    """The same items, begun elsewhere in each round and backwards in every other: drift then favours nobody."""
    start = turn % len(items) if items else 0
    rotated = [*items[start:], *items[:start]]
    return rotated[::-1] if turn % 2 else rotated


def minutes(parts: Collection[Part], chosen: Sequence[Contender], effort: Effort) -> float:
    """About how long a run takes, by what its steps took on two cores."""
    a_load = effort.seconds + 2  # locust's start, its ramp and the last answers
    each = {
        Part.NETWORK: 20 + 15 * effort.rounds,
        Part.DECODING: 5 + 10 * effort.rounds,
        Part.HTTP: effort.rounds * sum(10 + a_load * len(loads(one, effort)) for one in chosen),
        Part.WORKERS: 2 * (10 + 5 * effort.rounds),
        Part.OVERLOAD: 2 * effort.rounds * (28 + 2 * a_load),
        Part.GPU: 0,  # without one; with one some minutes, most of them compiling
    }
    preparing = 80
    return (preparing + sum(each[part] for part in parts)) / 60


def _supported(precision: str, flags: Collection[str]) -> bool:
    needed = _NEEDS.get(precision)
    return needed is None or not needed.isdisjoint(flags)
