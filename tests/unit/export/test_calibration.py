"""Calibration images: which of a folder are used, and for what."""

from pathlib import Path

import pytest
import torch

from export import calibration
from export.console import CliError
from tests.photos import cutouts, encode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for i, image in enumerate(cutouts(40)):
        (tmp_path / ("deep" if i % 2 else "") / f"{i}.jpg").write_bytes(encode(image.resize((120, 90))))
    return tmp_path


def test_a_part_is_held_out_and_the_rest_calibrates(folder: Path) -> None:
    images = calibration.read(folder)
    assert len(images.calibrating) + len(images.held_out) == 40
    assert 4 <= len(images.held_out) <= 18
    assert images.calibrating.shape[1:] == images.held_out.shape[1:] == (3, 224, 224)


def test_the_same_folder_gives_the_same_images(folder: Path) -> None:
    first, again = calibration.read(folder), calibration.read(folder)
    assert torch.equal(first.calibrating, again.calibrating)
    assert torch.equal(first.held_out, again.held_out)


def test_the_digest_is_of_names_and_contents(folder: Path) -> None:
    before = calibration.digest(folder)
    assert calibration.digest(folder) == before
    (folder / "0.jpg").rename(folder / "zero.jpg")
    renamed = calibration.digest(folder)
    (folder / "zero.jpg").write_bytes(b"other")
    assert len({before, renamed, calibration.digest(folder)}) == 3


def test_what_is_no_image_is_passed_over_and_a_damaged_one_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "labels.txt").write_text("cat")
    (folder / "broken.jpg").write_bytes((folder / "0.jpg").read_bytes()[:500])
    images = calibration.read(folder)
    assert len(images.calibrating) + len(images.held_out) == 40
    assert "broken.jpg is left out" in capsys.readouterr().err


def test_no_more_than_enough_are_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_CALIBRATING", 15)
    assert len(calibration.read(folder).calibrating) == 15


def test_too_few_images_are_told(tmp_path: Path) -> None:
    for i, image in enumerate(cutouts(5)):
        (tmp_path / f"{i}.jpg").write_bytes(encode(image))
    with pytest.raises(CliError, match="has 5 readable images; calibration needs at least 20"):
        calibration.read(tmp_path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="no such folder"):
        calibration.read(tmp_path / "nowhere")
