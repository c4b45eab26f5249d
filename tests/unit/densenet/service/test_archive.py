"""Ensure: an archive is exported anew when it is not what is requested, and only then."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from densenet.service import archive
from densenet.service.archive import ArchiveOptions
from export import Precision, console, processor
from export.calibration import digest
from export.console import CliError, Unreachable

CARD: dict[str, Any] = {
    "weights": {"name": "untrained", "sha256": "0"},
    "precision": "bf16",
    "network": {"parts": ["trunk", "head"]},
    "agreement": {},
}
NAMES = b'{"0": ["a", "one"]}'


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ArchiveOptions]]:
    """What was exported, with which wishes; class names that are those of the archive are left out."""
    found: list[tuple[str, ArchiveOptions]] = []

    def make(_: Path, weights: str, requested: ArchiveOptions, *_folder: Path, fall_back: bool = False) -> None:
        if requested.class_index and requested.class_index.name == "index_to_name.json":
            assert requested.class_index.read_bytes() == NAMES
            requested = replace(requested, class_index=None)
            weights += " with the archive's names"
        found.append((weights, requested))

    monkeypatch.setattr(archive, "_make", make)
    monkeypatch.setattr(archive, "_is_of_last_export", lambda card: False)
    return found


@pytest.fixture
def there(tmp_path: Path) -> Callable[..., Path]:
    """An archive with that card, or one that cannot be read."""

    def make(card: dict[str, Any] | None) -> Path:
        path = tmp_path / "densenet.mar"
        if card is None:
            path.write_text("damaged")
        else:
            with zipfile.ZipFile(path, "w") as packed:
                packed.writestr("model_card.json", json.dumps(card))
                packed.writestr("index_to_name.json", NAMES)
        return path

    return make


@pytest.mark.parametrize("fall_back", [True, False])
def test_a_first_archive_is_announced_and_told_whether_it_may_fall_back(
    fall_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, ...]] = []

    def run(module: str, *arguments: str, allowed: tuple[int, ...] = ()) -> int:
        ran.append((module, *arguments))
        if "imagenet" in arguments and Unreachable.status not in allowed:
            raise SystemExit(Unreachable.status)
        return Unreachable.status if "imagenet" in arguments else 0

    monkeypatch.setattr(archive, "_run", run)
    folder, path = str(archive.DEFAULT_FOLDER), tmp_path / "densenet.mar"
    imagenet, untrained = (("export", "--weights", name, "--output", folder) for name in ("imagenet", "untrained"))
    if fall_back:
        archive.ensure(path, ArchiveOptions(), rebuild=False, fall_back=True)
        packed = ("export.archive", "--model", folder, "--output", str(path), "--version", "1.0")
        assert ran == [imagenet, untrained, packed]
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


@pytest.mark.parametrize("amx", [True, False])
def test_auto_is_what_it_stands_for_on_this_processor(
    amx: bool, there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cpuinfo", lambda: "flags : amx_bf16" if amx else "")
    archive.ensure(there(CARD), ArchiveOptions(precision=console.precision("auto")), rebuild=False)
    made = ("untrained with the archive's names", ArchiveOptions(precision=Precision.FP32))
    assert exports == ([] if amx else [made])


@pytest.mark.parametrize("weights", [None, "untrained"])
def test_rebuilding_keeps_the_precision(
    weights: str | None, there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]]
) -> None:
    archive.ensure(there(CARD), ArchiveOptions(weights), rebuild=True)
    assert exports == [("untrained with the archive's names", ArchiveOptions(weights, precision=Precision.BF16))]


def test_what_is_kept_of_the_present_archive_is_said(
    there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]], capsys: pytest.CaptureFixture[str]
) -> None:
    archive.ensure(there(CARD), ArchiveOptions(), rebuild=True)
    assert capsys.readouterr().err == (
        "keeping the weights untrained and bf16 and the class names of the present densenet.mar\n"
    )
    archive.ensure(there(CARD), ArchiveOptions("imagenet"), rebuild=True)
    assert capsys.readouterr().err == "keeping bf16 of the present densenet.mar\n"
    archive.ensure(there(CARD), ArchiveOptions(precision=Precision.FP32, class_index=Path("new.json")), rebuild=True)
    assert capsys.readouterr().err == "keeping the weights untrained of the present densenet.mar\n"
    archive.ensure(there(CARD), ArchiveOptions("imagenet", precision=Precision.FP32), rebuild=True)
    assert capsys.readouterr().err == ""
    assert [weights for weights, _ in exports] == [
        *("untrained with the archive's names", "imagenet", "untrained", "imagenet")
    ]


def test_the_names_of_the_same_weights_file_are_kept(
    there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.pth"
    mine.write_bytes(b"weights")
    card = CARD | {"weights": {"name": "mine.pth", "sha256": hashlib.sha256(b"weights").hexdigest()}}
    for content in (b"weights", b"other weights"):
        mine.write_bytes(content)
        archive.ensure(there(card), ArchiveOptions(str(mine)), rebuild=True)
    assert [weights for weights, _ in exports] == [f"{mine} with the archive's names", str(mine)]


@pytest.mark.parametrize("weights", [None, "imagenet"])
@pytest.mark.parametrize("changed", [True, False], ids=["rebuild", "other weights or an older export"])
def test_an_archive_that_stays_int8_says_so_and_what_to_type(
    changed: bool, weights: str | None, there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]]
) -> None:
    card = CARD | {"precision": "int8"} | ({} if changed or weights else {"network": {}})
    with pytest.raises(CliError, match=r"keeping int8, .* present densenet\.mar, needs --calibration") as caught:
        archive.ensure(there(card), ArchiveOptions(weights), rebuild=changed)
    assert str(caught.value).endswith("or give another precision, such as --precision fp32")
    archive.ensure(there(card), ArchiveOptions("imagenet", precision=Precision.FP32), rebuild=True)
    archive.ensure(there(card), ArchiveOptions("imagenet", calibration_images=Path("photos")), rebuild=True)
    kept = ArchiveOptions("imagenet", precision=Precision.INT8, calibration_images=Path("photos"))
    assert exports == [("imagenet", ArchiveOptions("imagenet", precision=Precision.FP32)), ("imagenet", kept)]


@pytest.mark.parametrize(
    ("requested", "reason"),
    [
        (ArchiveOptions(precision=Precision.INT8), "--precision int8 needs --calibration-images DIR"),
        (ArchiveOptions(calibration_images=Path("photos")), "--calibration-images is only for int8; give --precision"),
    ],
)
def test_options_that_need_each_other_are_checked_before_any_export(
    requested: ArchiveOptions, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_run", lambda *_, **__: pytest.fail("exports"))
    with pytest.raises(CliError, match=reason):
        archive.ensure(tmp_path / "densenet.mar", requested, rebuild=False)


def test_a_model_store_that_cannot_be_written_is_told_before_any_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_run", lambda *_, **__: pytest.fail("exports"))
    (tmp_path / "file").touch()
    with pytest.raises(CliError, match=r"cannot write an archive to the model store .*file/store: Not a directory"):
        archive.ensure(tmp_path / "file" / "store" / "densenet.mar", ArchiveOptions(), rebuild=False)


def test_an_archive_of_an_older_export_is_made_anew(
    there: Callable[..., Path], exports: list[tuple[str, ArchiveOptions]], capsys: pytest.CaptureFixture[str]
) -> None:
    archive.ensure(there(CARD | {"network": {"format": "TorchScript"}}), ArchiveOptions(), rebuild=False)
    assert exports == [("untrained with the archive's names", ArchiveOptions(precision=Precision.BF16))]
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
    assert exports == [("untrained with the archive's names", requested)]
