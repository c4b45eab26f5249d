"""The command without its measuring: options, what is told, subprocesses and pictures."""

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from densenet.benchmark import command, images, subprocess_rpc
from densenet.benchmark.plan import LARGE, SMALL, Part, Size
from densenet.benchmark.run import Run
from densenet.interruption import Interrupted
from densenet.service import allocator
from export import weights
from export.console import CliError


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Part, Run]]:
    """Nothing is drawn, converted or measured; the parts that would have been, with their run."""
    found: list[tuple[Part, Run]] = []

    def stand_in(part: Part) -> object:
        def measure(run: Run) -> None:
            found.append((part, run))
            run.record.add(Part.WORKERS, round=0, precision="int8", seconds=2.0, private_mb=300.0)

        return measure

    monkeypatch.setattr(command, "_MEASURES", {part: stand_in(part) for part in Part})
    monkeypatch.setattr(command, "draw_photos", lambda folder: {})
    monkeypatch.setattr(command, "draw_calibration", lambda folder: folder)
    monkeypatch.setattr(command.Models, "make_state", lambda models: None)
    monkeypatch.setattr(command.Models, "prepare", lambda models, wanted, record: set(wanted))
    return found


def test_all_parts_are_measured_and_the_report_written(
    measured: list[tuple[Part, Run]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(output=tmp_path / "out")
    assert [part for part, _ in measured] == list(Part)
    effort = measured[0][1].effort
    assert (effort.rounds, effort.seconds, len(effort.loads)) == (3, 4, 6)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["performance.json", "performance.md"]
    output, errors = capsys.readouterr()
    assert "met           one more worker, int8: private memory: 300 MB" in output
    assert "3 round(s), about" in errors


def test_quick_can_have_more_rounds(measured: list[tuple[Part, Run]], tmp_path: Path) -> None:
    command.main(quick=True, rounds=2, only=[Part.WORKERS], output=tmp_path)
    ((part, run),) = measured
    assert (part, run.effort.rounds, run.effort.seconds, len(run.effort.loads)) == (Part.WORKERS, 2, 2, 3)
    assert (run.engines, run.served_systems) == ([], [])
    assert {"fp32", "int8"} <= set(run.precisions)


def test_one_system_alone(measured: list[tuple[Part, Run]], tmp_path: Path) -> None:
    command.main(only=[Part.HTTP], chosen=["flask-fp32-1"], output=tmp_path)
    assert [served.name for served in measured[0][1].served_systems] == ["flask-fp32-1"]


def test_an_unknown_contender_is_named_beside_the_known(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"unknown contender keras on this machine; valid contenders: .*ours-int8-2"):
        command.main(chosen=["keras"], output=tmp_path)


def test_a_contender_without_its_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="add --only http"):
        command.main(chosen=["flask-fp32-1"], only=[Part.NETWORK], output=tmp_path)


def test_a_folder_that_is_not_there_is_named(measured: list[tuple[Part, Run]], tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"no such folder: .*photos; --calibration-images"):
        command.main(calibration_images=tmp_path / "photos", output=tmp_path)
    assert list(tmp_path.iterdir()) == [], "no report of nothing"


def test_an_interrupted_run_keeps_its_report(
    measured: list[tuple[Part, Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(run: Run) -> None:
        run.record.add(Part.WORKERS, round=0, precision="fp32", seconds=2.0, private_mb=300.0)
        raise KeyboardInterrupt

    monkeypatch.setitem(command._MEASURES, Part.DECODING, interrupted)
    with pytest.raises(Interrupted) as raised:
        command.main(output=tmp_path)
    assert raised.value.status == 130
    assert (
        "| one more worker, fp32: private memory | at most 430 MB | 300 MB | met |"
        in (tmp_path / "performance.md").read_text()
    )


def test_a_bad_option_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "densenet", "benchmark", "--contender", "keras", "--output", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("benchmark: unknown contender keras")


def test_pictures_are_of_their_size_different_and_the_same_again(tmp_path: Path) -> None:
    paths = images.write(tmp_path, SMALL, 12)
    contents = [path.read_bytes() for path in paths]
    assert len(set(contents)) == 12
    assert contents == [path.read_bytes() for path in images.write(tmp_path / "again", SMALL, 12)]
    for content in contents:
        with Image.open(BytesIO(content)) as image:
            assert (image.size, image.format, image.mode) == ((SMALL.width, SMALL.height), "JPEG", "RGB")
        assert 15_000 < len(content) < 150_000


def test_a_large_picture_is_as_heavy_as_a_cameras(tmp_path: Path) -> None:
    (path,) = images.write(tmp_path, Size(LARGE.width // 4, LARGE.height // 4), 1)
    assert 3e6 < 16 * path.stat().st_size < 8e6


@pytest.mark.skipif(allocator.find() is None, reason="mimalloc's wheels are for Linux")
def test_a_function_apart_has_the_workers_allocator_where_that_is_asked_for(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    with subprocess_rpc.using(allocator.python(tmp_path)):
        assert "mimalloc" in subprocess_rpc.run(Path.read_text, maps)
    assert "mimalloc" not in subprocess_rpc.run(Path.read_text, maps)


def test_a_function_apart_answers_or_says_why() -> None:
    assert subprocess_rpc.run(os.path.basename, "/a/b") == "b"
    with pytest.raises(CliError, match=r"FileNotFoundError: .*nowhere"):
        subprocess_rpc.run(os.listdir, "/nowhere")
    with pytest.raises(CliError, match=r"^no such weights file: /nowhere"):
        subprocess_rpc.run(weights.load, "/nowhere")
    with pytest.raises(CliError, match="ended before it sent a result"):
        subprocess_rpc.run(os._exit, 3)
