"""How many cores a process may use, from the files of Linux's kernel."""

import os
from pathlib import Path

import pytest

from handler import cores


@pytest.fixture(autouse=True)
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_any_limit_it_is_the_affinity(tmp_path: Path) -> None:
    assert cores.available(tmp_path) == cores.physical(tmp_path) == 8


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("200000 100000", 2), ("350000 100000", 3), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_a_containers_limit(tmp_path: Path, limit: str, expected: int) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/cpu.max", f"{limit}\n")
    assert cores.available(tmp_path) == expected


def test_a_limit_of_a_group_above(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/pods/one/container\n")
    write(tmp_path / "sys/fs/cgroup/pods/one/container/cpu.max", "max 100000\n")
    write(tmp_path / "sys/fs/cgroup/pods/one/cpu.max", "400000 100000\n")
    write(tmp_path / "sys/fs/cgroup/pods/cpu.max", "600000 100000\n")
    assert cores.available(tmp_path) == 4


def test_version_1_of_control_groups(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:memory:/a\n4:cpu,cpuacct:/a\n1:name=systemd:/a\n")
    write(tmp_path / "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "300000\n")
    write(tmp_path / "sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cores.available(tmp_path) == 3


def test_hardware_threads_of_one_core_count_once(tmp_path: Path) -> None:
    for core in range(8):
        write(
            tmp_path / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list", f"{core % 4},{core % 4 + 4}\n"
        )
    assert cores.available(tmp_path) == 8
    assert cores.physical(tmp_path) == 4


def test_this_machine() -> None:
    assert 1 <= cores.physical() <= cores.available() <= 8
