"""A log has lines of one format."""

import gzip
from pathlib import Path

import pytest

from densenet.service import log_files
from densenet.service.torchserve import LogFormat

TEXT, JSON = "2026-01-01 INFO main x - hello\n", '{"time":"2026-01-01","message":"hello"}\n'


def rotated(folder: Path) -> dict[str, str]:
    return {path.name: gzip.decompress(path.read_bytes()).decode() for path in folder.glob("*.gz")}


@pytest.mark.parametrize(("before", "after"), [(TEXT, LogFormat.JSON), (JSON, LogFormat.TEXT)])
def test_a_switch_of_the_format_begins_new_files_and_loses_nothing(
    before: str, after: LogFormat, tmp_path: Path
) -> None:
    names = ("access_log", "model_log", "ts_log")
    for _ in range(2):
        for name in names:
            (tmp_path / f"{name}.log").write_text(before * 3)
        log_files.set_aside(tmp_path, after)
        assert not list(tmp_path.glob("*.log"))
    found = rotated(tmp_path)
    assert set(found.values()) == {before * 3}
    # As log4j2.xml names what it rotates, so that it is deleted in time.
    assert sorted((name.partition(".")[0], name.split(".")[-3]) for name in found) == [
        (name, number) for name in names for number in ("1", "2")
    ]


@pytest.mark.parametrize(("before", "after"), [(TEXT, LogFormat.TEXT), (JSON, LogFormat.JSON), ("", LogFormat.JSON)])
def test_the_same_format_goes_on_in_the_same_file(before: str, after: LogFormat, tmp_path: Path) -> None:
    (tmp_path / "model_log.log").write_text(before)
    (tmp_path / "console.log").write_text("not one of log4j's")
    log_files.set_aside(tmp_path, after)
    assert (tmp_path / "model_log.log").read_text() == before
    assert rotated(tmp_path) == {}
    log_files.set_aside(tmp_path / "missing", after)
