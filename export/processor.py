"""The processor: what /proc/cpuinfo says of it, and the precision that suits it. Without torch, which takes seconds."""

import platform
from collections.abc import Collection
from pathlib import Path

from export import Precision


def cpuinfo() -> str:
    """Return the text of /proc/cpuinfo, or "" on systems other than Linux."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def field(cpuinfo: str, key: str) -> str:
    """Return the first value of a key in the text of /proc/cpuinfo, or ""."""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def name() -> str:
    """Return this processor's name, or its architecture where the system does not tell the name."""
    return field(cpuinfo(), "model name") or platform.processor() or platform.machine()


def flags() -> frozenset[str]:
    """Return the names of this processor's instruction sets, as /proc/cpuinfo has them."""
    return frozenset(field(cpuinfo(), "flags").split())


def suitable_precision(flags: Collection[str]) -> Precision:
    """Return the precision to choose on a processor with these flags: bf16 with AMX, else fp32.

    int8 is faster, but needs photos to calibrate with.
    """
    return Precision.BF16 if "amx_bf16" in flags else Precision.FP32
