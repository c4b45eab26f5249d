"""Ensure: an archive is exported anew when it is not what is requested, and only then."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from densenet.service import archive
from densenet.service.archive import ArchiveOptions
from export import Precision
from export.calibration import digest
from export.console import CliError, Unreachable

CARD: dict[str, Any] = {
    "weights": {"name": "untrained", "sha256": "0"},
    "precision": "bf16",
    "network": {"parts": ["trunk", "head"]},
    "agreement": {},
}


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ArchiveOptions]]:
    """What was exported, with which wishes."""
    found: list[tuple[str, ArchiveOptions]] = []

    def make(_: Path, weights: str, requested: ArchiveOptions, *, fall_back: bool = False) -> None:
        found.append((weights, requested))

    monkeypatch.setattr(archive, "_make", make)
    monkeypatch.setattr(archive, "_is_of_last_export", lambda card: False)
    return found


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """An archive with that card, or one that cannot be read."""

    def make(card: dict[str, Any] | None) -> Path:
        path = tmp_path / "densenet.mar"
        path.write_text(json.dumps(card))

        def read_card(path: Path) -> dict[str, Any]:
            if card is None:
                raise CliError("damaged")
            return card

        monkeypatch.setattr(archive, "read_card", read_card)
        return path

    return make


@pytest.mark.parametrize("fall_back", [True, False])
def test_a_first_archive_is_announced_and_told_whether_it_may_fall_back(
    fall_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, ...]] = []

    def run(module: str, *arguments: str, allowed: tuple[int, ...] = ()) -> int:
        ran.append((module, *arguments))
        if arguments == ("--weights", "imagenet") and Unreachable.status not in allowed:
            raise SystemExit(Unreachable.status)
        return Unreachable.status if arguments == ("--weights", "imagenet") else 0

    monkeypatch.setattr(archive, "_run", run)
    imagenet, untrained = (("export", "--weights", name) for name in ("imagenet", "untrained"))
    path = tmp_path / "densenet.mar"
    if fall_back:
        archive.ensure(path, ArchiveOptions(), rebuild=False, fall_back=True)
        assert ran == [imagenet, untrained, ("export.archive", "--output", str(path))]
    else:
        with pytest.raises(SystemExit):
            archive.ensure(path, ArchiveOptions(), rebuild=False)
        assert ran == [imagenet]
    errors = capsys.readouterr().err
    assert "first start: exports the network" in errors
    assert ("UNTRAINED" in errors) == fall_back


def test_a_missing_weights_file_is_told(there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]]) -> None:
    with pytest.raises(CliError, match="no such weights file: /nowhere"):
        archive.ensure(there(CARD), ArchiveOptions("/nowhere"), rebuild=False)
    assert exports == []


def test_what_is_as_wanted_is_left_alone(there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]]) -> None:
    archive.ensure(there(CARD), ArchiveOptions(precision=Precision.BF16), rebuild=False)
    assert exports == []


@pytest.mark.parametrize("weights", [None, "untrained"])
def test_rebuilding_keeps_the_precision(
    weights: str | None, there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]]
) -> None:
    archive.ensure(there(CARD), ArchiveOptions(weights), rebuild=True)
    assert exports == [("untrained", ArchiveOptions(weights, precision=Precision.BF16))]


def test_an_archive_of_an_older_export_is_made_anew(
    there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]], capsys: pytest.CaptureFixture[str]
) -> None:
    archive.ensure(there(CARD | {"network": {"format": "TorchScript"}}), ArchiveOptions(), rebuild=False)
    assert exports == [("untrained", ArchiveOptions(precision=Precision.BF16))]
    assert "older export" in capsys.readouterr().err


def test_a_damaged_archive_is_made_anew_only_when_asked_and_told_of_what(
    there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]]
) -> None:
    for requested, rebuild in ((ArchiveOptions(), True), (ArchiveOptions("untrained"), False)):
        with pytest.raises(CliError, match="damaged"):
            archive.ensure(there(None), requested, rebuild=rebuild)
    archive.ensure(there(None), ArchiveOptions("untrained"), rebuild=True)
    assert exports == [("untrained", ArchiveOptions("untrained"))]


def test_other_photos_are_calibrated_with_and_the_same_are_not(
    there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]], tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"a")
    card = CARD | {"precision": "int8", "agreement": {"images_sha256": digest(photos)}}
    requested = ArchiveOptions(precision=Precision.INT8, calibration_images=photos)
    archive.ensure(there(card), requested, rebuild=False)
    assert exports == []
    (photos / "b.jpg").write_bytes(b"b")
    archive.ensure(there(card), requested, rebuild=False)
    assert exports == [("untrained", requested)]
