"""What a worker does about the folder through which commands speak to it."""

import errno
import os
import subprocess
import time
from pathlib import Path
from threading import Thread

import pytest

from handler import worker_control
from handler.worker_control import PAUSE_HEADER, Control

TOKEN = "0123456789abcdef" * 2


def test_without_a_folder_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(worker_control.VARIABLE, raising=False)
    lonely = Control.from_environment("1.0")
    lonely.begin()
    lonely.end(3)
    assert (lonely.draining, lonely.pause({PAUSE_HEADER: TOKEN})) == (False, False)


def test_what_a_worker_has_done_can_be_read(tmp_path: Path) -> None:
    worker = Control(tmp_path)
    assert worker_control.read_record(tmp_path, os.getpid()) == (0, 0.0)
    worker.begin()
    assert worker_control.read_record(tmp_path, os.getpid())[1] == pytest.approx(time.time(), abs=5)
    worker.end(3)
    worker.begin()
    worker.end(1)
    assert worker_control.read_record(tmp_path, os.getpid()) == (4, 0.0)


def test_a_worker_starts_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    worker = Control(tmp_path)
    worker.begin()
    worker.end(1)
    assert worker.draining is False
    with pytest.raises(OSError, match="No such file"):
        worker_control.read_record(tmp_path, os.getpid())


def test_a_worker_is_paused_until_the_folder_is_gone(tmp_path: Path) -> None:
    worker = Control(tmp_path)
    folder = tmp_path / f"hold-{TOKEN}"
    folder.mkdir()
    thread = Thread(target=worker.pause, args=({PAUSE_HEADER: TOKEN},))
    thread.start()
    deadline = time.monotonic() + 10
    while not list(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [path.name for path in folder.iterdir()] == [str(os.getpid())]
    assert thread.is_alive()
    folder.rename(tmp_path / "over")
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {PAUSE_HEADER: TOKEN},
        {PAUSE_HEADER: "../control"},
        {PAUSE_HEADER: f"{TOKEN}/../x"},
        {PAUSE_HEADER: {"content-type": ""}},
        {PAUSE_HEADER: ""},
    ],
)
def test_no_client_can_pause_a_worker(tmp_path: Path, headers: dict[str, object]) -> None:
    (tmp_path / "hold-x").mkdir()
    assert Control(tmp_path).pause(headers) is False


def test_a_worker_goes_on_if_the_command_that_paused_it_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_control, "PAUSE_SECONDS", 0.05)
    folder = tmp_path / f"hold-{TOKEN}"
    folder.mkdir()
    assert Control(tmp_path).pause({PAUSE_HEADER: TOKEN}) is True
    assert list(folder.iterdir()) == [], "it no longer counts as paused"


def test_draining_is_seen_at_once(tmp_path: Path) -> None:
    worker = Control(tmp_path)
    assert worker.draining is False
    (tmp_path / "draining").touch()
    assert worker.draining is True


def test_one_version_can_drain_alone(tmp_path: Path) -> None:
    workers = {version: Control(tmp_path, version) for version in ("1.0", "2/0", "2")}
    worker_control.draining_file(tmp_path, "2/0").touch()
    assert [version for version, worker in workers.items() if worker.draining] == ["2/0"]
    worker_control.draining_file(tmp_path).touch()
    assert all(worker.draining for worker in workers.values())


def test_busy_workers_are_counted(tmp_path: Path) -> None:
    worker = Control(tmp_path)
    assert worker.count_busy() == 1
    with subprocess.Popen(["sleep", "60"]) as other:
        record = tmp_path / "workers" / str(other.pid)
        record.write_bytes(worker_control._RECORD.pack(7, time.time()))
        assert worker.count_busy() == 2
        record.with_name("12345678").write_bytes(b"not whole")
        assert worker.count_busy() == 2
        other.kill()
        other.wait()
        assert record.exists()
        assert worker.count_busy() == 1  # a killed worker's record says for ever that it is busy
    idle = tmp_path / "workers" / str(os.getppid())
    idle.write_bytes(worker_control._RECORD.pack(7, 0.0))
    assert worker.count_busy() == 1
    # Its record changes while it runs.
    with idle.open("r+b") as file:
        file.write(worker_control._RECORD.pack(7, time.time()))
    assert worker.count_busy() == 2


def test_without_a_record_a_worker_knows_of_no_other() -> None:
    worker = Control(None)
    assert not worker.is_recorded
    assert worker.count_busy() == 1
