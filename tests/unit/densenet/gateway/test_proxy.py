"""The gateway's own process: its folder and its limit on open files, on systems unlike Linux."""

import resource
from pathlib import Path

import pytest

from densenet.gateway import proxy, upstreams

LONGEST_SOCKET = 103  # bytes of a socket's path on macOS; Linux takes 107


def test_sockets_of_long_names_have_paths_that_fit_whatever_tmpdir_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_FOLDERS", (tmp_path / "missing", *proxy._FOLDERS[1:]))  # no /dev/shm
    monkeypatch.setenv("TMPDIR", "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T")
    replica = upstreams.parse(f"{'a-long-host-name' * 4}:65535")
    with proxy._folder() as folder:
        assert folder.stat().st_mode & 0o007 == 0
        (path,) = upstreams.sockets([replica], folder)
        assert len(str(path).encode()) <= LONGEST_SOCKET


@pytest.mark.parametrize(("most", "expected"), [(2**20, 4 * proxy._CONNECTIONS), (10240, 10240), (256, None)])
def test_open_files_are_raised_as_far_as_the_system_lets_them(
    most: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS says that there is no limit, and refuses more than its own."""
    limits: list[int] = []

    def set_limit(_: int, limit: tuple[int, int]) -> None:
        if limit[0] > most:
            raise ValueError("current limit exceeds maximum limit")
        limits.append(limit[0])

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    proxy._raise_open_files()
    assert limits == ([expected] if expected else [])
