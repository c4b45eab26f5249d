"""Cores: how many processor cores this process may use.

A container's limit is not visible in the number of cores: it is a quota of processor time in its control group.
"""

import os
from pathlib import Path

_ROOT = Path("/")


def available(root: Path = _ROOT) -> int:
    """Return the number of logical cores that this process may use: its affinity, bounded by its container's limit.

    root: where /proc and /sys are.
    """
    return _limited(len(_allowed()), root)


def physical(root: Path = _ROOT) -> int:
    """Return the same number with the hardware threads of a core counted once.

    Two threads of a core share its units of arithmetic, which a network keeps busy with one.
    """
    siblings = set()
    for core in _allowed():
        path = root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        siblings.add(_read(path) or str(core))
    return _limited(len(siblings), root)


def _allowed() -> set[int]:
    # macOS has no affinity.
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _limited(count: int, root: Path) -> int:
    return max(1, int(min(count, *_quotas(root))))


def _quotas(root: Path) -> list[float]:
    """Return the limits in cores of this process's control group and of all groups above it."""
    quotas = [float("inf")]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In version 2 of control groups there is one hierarchy, without names of controllers.
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        folder = top / group.lstrip("/")
        for path in (folder, *folder.parents):
            quotas += _quota_of(path, version=1 if controllers else 2)
            if path == top:
                break
    return quotas


def _quota_of(group: Path, version: int) -> list[float]:
    if version == 2:
        words = _read(group / "cpu.max").split()
    else:
        words = [_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # there is no such file, or no limit: "max"
        return []
    return [quota / period] if quota > 0 and period > 0 else []


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
