"""From labelled photos to calibrated answers in every protocol, against the eager network's logits and scipy."""

import base64
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from densenet_client import Client
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from torch import nn

from densenet.paths import IMAGENET_CLASSES
from export import evaluation
from handler.ranking import load_class_index
from tests.conftest import tutorial_transform
from tests.integration.conftest import Server, Starter
from tests.integration.test_evaluate import run
from tests.photos import cutouts, encode

CLASSES = load_class_index(IMAGENET_CLASSES)
TURNS = [None, *list(Image.Transpose)[:4]]


@dataclass(frozen=True)
class Labelled:
    """A hundred labelled photos, and the eager network's logits, (100, 1000)."""

    folder: Path
    photos: list[bytes]
    truth: NDArray[np.int64]
    logits: NDArray[np.float64]


@pytest.fixture(scope="module")
def labelled(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Seven of ten have the label of their best class, the others of their second."""
    folder = tmp_path_factory.mktemp("labelled")
    images = [image.resize((300, 260)) for image in cutouts(20)]
    photos = [encode(image.transpose(turn) if turn is not None else image, "PNG") for turn in TURNS for image in images]
    with torch.no_grad():
        batches = [
            network(torch.stack([tutorial_transform()(Image.open(io.BytesIO(photo))) for photo in photos[i : i + 20]]))
            for i in range(0, 100, 20)
        ]
    logits = torch.cat(batches).double().numpy()
    ranks = [0 if i % 10 < 7 else 1 for i in range(100)]
    truth = np.array([row.argsort()[-1 - rank] for row, rank in zip(logits, ranks, strict=True)])
    for i, (photo, label) in enumerate(zip(photos, truth.tolist(), strict=True)):
        (folder / f"{CLASSES.ids[label]}_{i}.png").write_bytes(photo)
    return Labelled(folder, photos, truth, logits)


@pytest.fixture(scope="module")
def measured(labelled: Labelled, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that scripts/evaluate writes."""
    folder = tmp_path_factory.mktemp("measured")
    options = ("--calibrate", "found.json", "--reject-at", "10%", "--url", server.url, "--output", "out")
    done = run(labelled.folder, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "calibration error" in done.stdout
    return folder / "found.json"


@pytest.fixture(scope="module")
def entry(measured: Path) -> Any:
    return json.loads(measured.read_text())["precisions"]["fp32"]


@pytest.fixture(scope="module")
def calibrated(measured: Path, exported: Path, start: Starter, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A service whose archive has it."""
    export = Path(shutil.copytree(exported, tmp_path_factory.mktemp("calibrated") / "build"))
    evaluation.add(export, measured)
    return start(export=export)


def test_the_temperature_is_the_likeliest_of_the_eager_networks_logits(entry: Any, labelled: Labelled) -> None:
    def loss(temperature: float) -> float:
        rows = log_softmax(labelled.logits / temperature, axis=1)
        return float(-rows[np.arange(100), labelled.truth].mean())

    expected = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-8}).x
    assert entry["temperature"] == pytest.approx(expected, rel=1e-3)
    assert entry["top1"]["right"] == 70


def test_energies_are_quantiles_of_the_eager_networks(entry: Any, labelled: Labelled) -> None:
    expected = np.quantile(-logsumexp(labelled.logits, axis=1), np.linspace(0, 1, 101))
    np.testing.assert_allclose(entry["unknown"]["energies"], expected, atol=1e-3)


@pytest.fixture(scope="module")
def expected(entry: Any, labelled: Labelled) -> NDArray[np.float64]:
    """The calibrated probability of each photo's best class."""
    return np.asarray(softmax(labelled.logits / entry["temperature"], axis=1).max(axis=1))


def test_answers_are_calibrated_and_say_so(
    calibrated: Server, labelled: Labelled, entry: Any, expected: NDArray[np.float64]
) -> None:
    energies = -logsumexp(labelled.logits, axis=1)
    scores = np.interp(energies, entry["unknown"]["energies"], np.linspace(0, 1, 101))
    with Client(calibrated.url) as client:
        answers = [client.classify(photo, top_k=1, logits=True) for photo in labelled.photos[:30]]
    for i, answer in enumerate(answers):
        assert answer.model.calibrated
        assert answer[0].probability == pytest.approx(expected[i], abs=1e-4)
        assert answer[0].logit == pytest.approx(labelled.logits[i].max(), abs=1e-3)
        assert answer.unknown_score == pytest.approx(scores[i], abs=5e-3)
        if abs(scores[i] - 0.9) > 0.01:
            assert answer.recognized == (scores[i] < 0.9)
    assert {answer.recognized for answer in answers} == {True, False}


def test_every_protocol_has_the_calibrated_probabilities(
    calibrated: Server, labelled: Labelled, expected: NDArray[np.float64]
) -> None:
    photo, inference = labelled.photos[0], calibrated.service.inference
    text = base64.b64encode(photo).decode()
    outputs = [{"name": name} for name in ("probabilities", "unknown_score", "recognized")]
    tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [text]}
    (v1,) = requests.post(
        f"{inference}/v1/models/densenet:predict", json={"instances": [{"b64": text}]}, timeout=60
    ).json()["predictions"]
    v2 = requests.post(
        f"{inference}/v2/models/densenet/infer", json={"inputs": [tensor], "outputs": outputs}, timeout=60
    ).json()["outputs"]
    hugging_face = calibrated.post(json={"inputs": text}).json()
    found = [v1["predictions"][0]["probability"], v2[0]["data"][0], hugging_face[0]["score"]]
    assert found == pytest.approx([expected[0]] * 3, abs=1e-4)
    assert v1["model"]["calibrated"] is True
    assert v2[1]["data"] == [v1["unknown_score"]]
    assert v2[2]["data"] == [v1["recognized"]]
    raw = calibrated.post(json={"inputs": text, "parameters": {"function_to_apply": "none"}}).json()
    assert raw[0]["score"] == pytest.approx(labelled.logits[0].max(), abs=1e-3)


def test_a_model_without_calibration_has_no_unknown_score(server: Server, labelled: Labelled) -> None:
    text = base64.b64encode(labelled.photos[0]).decode()
    tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [text]}
    answer = server.post(json={"inputs": [tensor], "outputs": [{"name": "unknown_score"}]})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "this model is not calibrated, so it has no output unknown_score",
    )


def test_both_model_cards_have_it(calibrated: Server, entry: Any) -> None:
    with Client(calibrated.url) as client:
        assert client.model_card()["evaluation"]["fp32"] == entry
    text = requests.get(f"{calibrated.url}/1.0/MODEL_CARD.md", timeout=60)
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert f"Logits are divided by {entry['temperature']:.3f}" in text.text
    assert "70.0% (60.4% to 78.1%)" in text.text
