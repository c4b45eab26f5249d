"""Batches: the size that pays, what is measured and remembered, and that no failure keeps a service from starting."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from densenet.service import batches
from export import archive as archiving
from export import processor
from tests.unit.export.test_archive import make_export

GAIN = {"1": 12.0, "2": 11.5, "4": 10.2, "8": 10.0}


@pytest.mark.parametrize(
    ("times", "size"),
    [
        ({1: 12.7, 2: 11.5, 4: 11.0, 8: 10.6}, 8),
        ({1: 12.7, 2: 11.5, 4: 10.9, 8: 10.6}, 4),  # within 3% of the best
        ({1: 42.4, 2: 41.5, 4: 40.9, 8: 44.0}, 1),  # gains less than 5%
        ({1: 20.0, 2: 18.9, 4: 19.0, 8: 19.1}, 2),
        ({1: 10.0, 2: 11.0, 4: 12.0, 8: 13.0}, 1),
        ({1: 10.0, 2: 10.0, 4: 10.0, 8: 10.0}, 1),
        ({1: 20.0, 2: 10.31, 4: 10.1, 8: 10.0}, 4),
        ({1: 10.0, 2: 9.5, 4: 9.5, 8: 9.5}, 2),
    ],
)
def test_the_smallest_size_near_the_best_pays_if_it_gains_enough(times: dict[int, float], size: int) -> None:
    assert batches.choose(times, 1) == size


@pytest.mark.parametrize(
    ("times", "size"),
    [
        ({1: 9.4, 2: 7.4, 4: 6.5, 8: 6.1}, 2),
        ({1: 10.0, 2: 8.5, 4: 8.5, 8: 8.5}, 2),
        ({1: 10.0, 2: 8.6, 4: 6.0, 8: 5.0}, 1),
        ({1: 45.7, 2: 43.1, 4: 41.8, 8: 42.0}, 1),
    ],
)
def test_several_workers_get_pairs_where_these_save_much(times: dict[int, float], size: int) -> None:
    assert batches.choose(times, 2) == size


class Measured:
    """An archive for one worker, and the answers of a measurement that does not take place."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.path, self.count = folder / "run", folder / "densenet.mar", 0
        self.run.mkdir()
        self.times, self.threads = GAIN, [0]
        self.export = make_export(folder / "build")
        card = self.export / "model_card.json"
        card.write_text(card.read_text().replace('"fp32"', '"int8"'))
        archiving.build(self.export, self.path, version="1.0", workers=1)
        monkeypatch.setattr(batches, "_measure", self.measure)

    def measure(self, archive: Path, threads: int, chunk: int, _: Path) -> dict[str, float]:
        assert (archive, chunk) == (self.path, 4)
        self.count += 1
        self.threads.append(threads)
        return self.times

    def size(self, workers: int | None = None, **settings: Any) -> int | None:
        if settings:
            archiving.build(self.export, self.path.with_suffix(".old"), version="1.0", workers=1)
            archiving.copy_with_settings(self.path.with_suffix(".old"), self.path, settings)
        return batches.size_for(self.path, workers, self.run)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    return Measured(tmp_path, monkeypatch)


def test_one_worker_takes_what_was_measured(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    assert measured.size() == 4
    line = "batches: 12.0 ms an image alone, 11.5 by 2, 10.2 by 4, 10.0 by 8; batchSize 4\n"
    assert capsys.readouterr().err == line


def test_a_network_is_measured_once_for_a_machine_and_a_number_of_threads(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [measured.size(), measured.size()] == [4, 4]
    assert measured.count == 1
    measured.size(handler={"threads": 16})
    monkeypatch.setattr(processor, "name", lambda: "another")
    measured.size()
    assert measured.count == 3
    assert list(json.loads((measured.run / "batches.json").read_text()).values()) == [GAIN] * 3


@pytest.mark.parametrize("settings", [{"batchSize": 1}, {"batchSize": 32}, {"deviceType": "gpu"}])
def test_an_archive_that_names_it_and_a_gpu_are_not_measured(
    settings: dict[str, Any], measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured.size(**settings) is None
    assert measured.size(workers=3) is None
    assert (measured.count, capsys.readouterr().err) == (0, "")


def test_fp32_is_not_measured_for_several_workers(
    tmp_path: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archiving.build(exported, path := tmp_path / "densenet.mar", version="1.0", workers=2)
    assert batches.size_for(path, None, tmp_path) is None
    assert capsys.readouterr().err == ""


def test_the_workers_of_the_start_count_not_the_archives(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches.cores, "physical", lambda: 4)
    assert measured.size(minWorkers=2, maxWorkers=2) is None
    assert measured.size(workers=1) == 4
    measured.times = {"1": 9.4, "2": 7.4, "4": 6.5, "8": 6.1}
    assert measured.size(workers=4) == 2
    # A worker's share of the cores while all are busy.
    assert measured.threads == [0, 2, 4, 1]


@pytest.mark.parametrize("content", ["", "no JSON", "[]", "null", '{"a": 5}'])
def test_a_damaged_memory_is_measured_again(content: str, measured: Measured) -> None:
    (measured.run / "batches.json").write_text(content)
    assert (measured.size(), measured.count) == (4, 1)


def test_damaged_times_are_measured_again(measured: Measured) -> None:
    measured.size()
    path = measured.run / "batches.json"
    path.write_text(path.read_text().replace("12.0", '"?"'))
    assert (measured.size(), measured.count) == (4, 2)


@pytest.mark.parametrize(
    "failure",
    [
        OSError("no memory"),
        subprocess.TimeoutExpired("python", 60),
        subprocess.CalledProcessError(1, "python", "", "Traceback\nRuntimeError: no memory\n"),
        json.JSONDecodeError("no memory", "", 0),
    ],
)
def test_no_failure_keeps_a_service_from_starting(
    failure: Exception, measured: Measured, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Path | int) -> dict[str, float]:
        raise failure

    monkeypatch.setattr(batches, "_measure", fail)
    assert measured.size() is None
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("batches were not measured, so each request is computed alone: ")
    assert "no memory" in said or "timed out" in said
    assert not (measured.run / "batches.json").exists()


def test_a_network_that_cannot_be_read_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archiving.build(make_export(tmp_path / "build"), path := tmp_path / "densenet.mar", version="1.0", workers=1)
    assert batches.size_for(path, None, tmp_path) is None
    said = capsys.readouterr().err
    assert said.startswith("batches were not measured, so each request is computed alone: ")
    assert (said.count("\n"), "Traceback" in said) == (1, False)


def test_a_real_network_is_measured_at_every_size(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archiving.build(exported, path := tmp_path / "densenet.mar", version="1.0", workers=1)
    size = batches.size_for(path, None, tmp_path)
    (times,) = json.loads((tmp_path / "batches.json").read_text()).values()
    assert list(times) == ["1", "2", "4", "8"]
    assert min(times.values()) > 0
    chosen = batches.choose({int(size): time for size, time in times.items()}, 1)
    assert size == (chosen if chosen > 1 else None)
    assert capsys.readouterr().err.startswith("batches: ")
