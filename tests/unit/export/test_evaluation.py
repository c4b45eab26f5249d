"""What scripts/evaluate --calibrate measured, on its way into an archive's model cards."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from export import archive, evaluation, readable_card
from export.console import CliError
from tests.unit.export.test_archive import CARD, make_export

SHARE = {"right": 90, "share": 0.9, "low": 0.85, "high": 0.93}
ERROR = {"error": 0.05, "low": 0.03, "high": 0.07}
ENTRY: dict[str, Any] = {
    "images": 200,
    "classes": 2,
    "set_sha256": "abcdef",
    "top1": SHARE,
    "top5": SHARE | {"share": 1.0},
    "temperature": 0.85,
    "calibration_error": {"before": ERROR, "after": ERROR | {"error": 0.02}},
    "unknown": {"energies": [-20.0, -10.0], "bound": 0.99},
    "min_precision": 0.95,
    "min_probability": 0.4,
    "class_min_probability": {"n1": 0.5},
}
WEIGHTS = {"name": "mine.pth", "sha256": "d1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_export(tmp_path / "build")


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    path = tmp_path / "measured.json"
    evaluation.write(path, WEIGHTS | {"source": "anywhere"}, "fp32", ENTRY)
    return path


def test_it_gets_into_both_cards_and_stays_when_the_archive_is_packed_again(
    folder: Path, measured: Path, tmp_path: Path
) -> None:
    path = tmp_path / "densenet.mar"
    archive.main(folder, path, workers=1, calibration=measured)
    assert archive.read_card(path)["evaluation"] == {"fp32": ENTRY}
    assert archive.is_current(path, folder)
    archive.refresh(path, folder)
    assert archive.read_card(path) == CARD | {"evaluation": {"fp32": ENTRY}}
    with zipfile.ZipFile(path) as packed:
        text = packed.read("MODEL_CARD.md").decode()
    assert "Logits are divided by 0.850 before the softmax" in text
    assert "| fp32 | 200 | 2 | 90.0% (85.0% to 93.0%) | 100.0%" in text


def test_a_card_for_people_that_is_not_of_the_export_is_not_current(
    folder: Path, measured: Path, tmp_path: Path
) -> None:
    path = tmp_path / "densenet.mar"
    archive.main(folder, path, workers=1)
    assert archive.is_current(path, folder)
    evaluation.add(folder, measured)
    assert not archive.is_current(path, folder)


def test_a_measurement_of_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "others.json"
    evaluation.write(path, {"name": "others.pth", "sha256": "d2"}, "fp32", ENTRY)
    with pytest.raises(CliError, match=r"others\.json is of other weights, others\.pth \(d2\), than mine\.pth \(d1\)"):
        archive.main(folder, tmp_path / "densenet.mar", workers=1, calibration=path)
    with pytest.raises(CliError, match="of other weights"):
        evaluation.write(path, WEIGHTS, "fp32", ENTRY)
    assert not (tmp_path / "densenet.mar").exists()


def test_a_measurement_in_another_precision_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.json"
    evaluation.write(path, WEIGHTS, "int8", ENTRY)
    with pytest.raises(CliError, match=r"has no measurement in fp32, which the export in .* is; serve it and run"):
        evaluation.add(folder, path)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": "1"},
        {"temperature": float("inf")},
        {"unknown": {"energies": [1.0], "bound": 0.9}},
        {"unknown": {"energies": [2.0, 1.0], "bound": 0.9}},
        {"unknown": {"energies": [1.0, 2.0], "bound": 1.1}},
        {"unknown": None},
        {"min_probability": -0.1},
        {"class_min_probability": {"n1": 2}},
        {"class_min_probability": []},
    ],
    ids=repr,
)
def test_what_the_handler_could_not_use_is_refused(changes: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps({"weights": WEIGHTS, "precisions": {"fp32": ENTRY | changes}}))
    with pytest.raises(CliError, match=r"damaged\.json is not a file of scripts/evaluate --calibrate"):
        evaluation.add(folder, path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weights": {}, "precisions": {}}', '{"precisions": 1}'])
def test_other_files_are_refused(content: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(CliError, match="is not a file of"):
        evaluation.add(folder, path)


def test_hugging_face_reads_the_card() -> None:
    card = ModelCard(readable_card.render(CARD | {"evaluation": {"fp32": ENTRY}}).decode())
    assert (card.data.pipeline_tag, card.data.library_name) == ("image-classification", "pytorch")
    results = {result.metric_type: result.metric_value for result in card.data.eval_results or ()}
    assert results == {"accuracy": 0.9, "top-5-accuracy": 1.0}
    assert card.text.strip().startswith("# DenseNet-121: mine.pth, fp32")


def test_a_card_without_measurements_says_how_to_get_them() -> None:
    text = readable_card.render(CARD).decode()
    assert "Not measured with this export: run `scripts/evaluate DIR --calibrate FILE`" in text
    assert "at least 0.71" in text
    assert not ModelCard(text).data.eval_results
    assert "classes for people" not in text


def test_untrained_weights_and_imagenet_are_said(folder: Path) -> None:
    weights = CARD["weights"] | {"name": "untrained"}
    assert (
        "**The weights are untrained: every answer is meaningless.**"
        in readable_card.render(CARD | {"weights": weights}).decode()
    )
    classes = {"count": 1000, "sha256": "d3"}
    held_out = {"images": 40, "same_top1": 0.95, "mean_distance": 0.02}
    card = CARD | {"classes": classes, "precision": "int8", "agreement": {"held_out": held_out}}
    text = readable_card.render(card | {"weights": CARD["weights"] | {"name": "IMAGENET1K_V1"}}).decode()
    assert "ImageNet has no classes for people" in text
    assert "1.28 million photos" in text
    assert "95.0% of 40 photos that it was not calibrated with keep" in text
