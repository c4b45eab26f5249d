"""Describe the machine and the versions on which the numbers were measured."""

import os
import platform
import time
from collections.abc import Collection
from importlib import metadata
from typing import Any

import psutil

from densenet.processes import cpu_seconds
from export import processor
from handler import cores

_PACKAGES = (
    *("torch", "torchvision", "torchserve", "pillow", "flask", "gunicorn", "starlette", "uvicorn"),
    *("openvino", "nncf", "onnx", "onnxruntime", "locust"),
)
# Instruction sets that determine the speed of a network on a CPU.
_RELEVANT_FLAGS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
)


def relevant(flags: Collection[str]) -> list[str]:
    """Return the relevant ones of a processor's flags."""
    return [flag for flag in _RELEVANT_FLAGS if flag in flags]


def describe() -> dict[str, Any]:
    """Return processor, cores, memory in GiB, system, load before the run, and versions by package."""
    text = processor.cpuinfo()
    return {
        "processor": processor.name(),
        "family": " / ".join(filter(None, (processor.field(text, key) for key in ("cpu family", "model")))),
        "flags": relevant(processor.flags()),
        "cores": cores.available(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


class Elsewhere:
    """The share of CPU time used by programs outside this run, counted from the creation of the object."""

    def __init__(self) -> None:
        self._begun, self._busy, self._ours = time.monotonic(), _busy_seconds(), _our_seconds()

    def share(self) -> float:
        """Return the share of all cores' time, 0..1. Includes time that the host of a virtual machine took."""
        seconds = (time.monotonic() - self._begun) * (psutil.cpu_count() or 1)
        others = (_busy_seconds() - self._busy) - (_our_seconds() - self._ours)
        return min(1.0, max(0.0, others / seconds))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    # Linux includes guest time in user time, so it must not be added again.
    return float(sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0))


def _our_seconds() -> float:
    return cpu_seconds(psutil.Process())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"
