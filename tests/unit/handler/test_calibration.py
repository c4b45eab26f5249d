"""A calibration: its numbers against their definitions, and what the handler makes of a card that has one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from handler.calibration import Calibration, energy
from handler.entry import Classifier
from tests.photos import cutouts, encode
from tests.unit.handler.test_entry import make_context

PHOTO = encode(cutouts(1)[0])
# Energies of the tests' network, which is unsure of everything, are near -ln(1000).
MEASURED: dict[str, Any] = {
    "images": 200,
    "temperature": 0.5,
    "unknown": {"energies": [-30.0, -20.0, -10.0, 0.0, 10.0], "bound": 0.99},
    "min_probability": 0.0,
    "class_min_probability": {},
}


def make(**changes: Any) -> Calibration:
    return Calibration(**{"temperature": 0.5, "energies": (-9.0, -5.0, -4.0, -1.0, 3.0), "bound": 0.9} | changes)


def test_a_card_without_one_has_none() -> None:
    assert Calibration.from_card({"precision": "fp32"}) is None
    assert Calibration.from_card({"precision": "fp32", "evaluation": {"int8": MEASURED}}) is None


def test_energy_is_what_liu_et_al_define() -> None:
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 8
    assert energy(logits) == pytest.approx(-logsumexp(logits.double().numpy()), rel=1e-12)
    assert energy(torch.full((10,), 1e4)) == pytest.approx(-1e4 - np.log(10))


@pytest.mark.parametrize("value", [-20.0, -9.0, -7.0, -5.0, -4.5, -3.0, 0.0, 2.9, 3.0, 50.0])
def test_the_score_is_the_share_of_photos_with_a_lower_energy(value: float) -> None:
    # One class with a logit of x has an energy of -x.
    found = make().unknown_score(torch.tensor([-value]))
    assert found == pytest.approx(np.interp(value, [-9, -5, -4, -1, 3], [0, 0.25, 0.5, 0.75, 1]))


def test_equal_energies_are_no_division_by_zero() -> None:
    calibration = make(energies=(-5.0, -5.0, -5.0))
    assert [calibration.unknown_score(torch.tensor([x])) for x in (6.0, 5.0, 4.0)] == [0.0, 1.0, 1.0]


def test_what_is_unknown_or_improbable_is_not_recognized() -> None:
    calibration = make(min_probability=0.4, class_min_probability={"n1": 0.8})
    assert calibration.recognizes("n2", 0.4, 0.9)
    assert not calibration.recognizes("n2", 0.4, 0.91)
    assert not calibration.recognizes("n2", 0.39, 0.0)
    assert not calibration.recognizes("n1", 0.79, 0.0)
    assert calibration.with_min_probability(0.3).recognizes("n1", 0.3, 1.0)


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "calibrated"))


def calibrated(folder: Path, **changes: Any) -> Path:
    card = json.loads((folder / "model_card.json").read_text())
    card["evaluation"] = {"fp32": MEASURED | changes}
    (folder / "model_card.json").write_text(json.dumps(card))
    return folder


def ask(folder: Path, headers: dict[str, str] | None = None, **config: Any) -> dict[str, Any]:
    classifier = Classifier()
    classifier.initialize(make_context(folder, **config))
    context = make_context(folder, headers=headers)
    answer: dict[str, Any] = json.loads(classifier.handle([{"body": bytearray(PHOTO)}], context)[0])
    return answer


def test_probabilities_are_of_logits_by_the_temperature_and_say_so(folder: Path) -> None:
    plain = ask(folder, {"x-top-k": "1000", "x-logits": "true"})
    assert "calibrated" not in plain["model"]
    assert "unknown_score" not in plain
    answer = ask(calibrated(folder), {"x-top-k": "1000", "x-logits": "true"})
    assert answer["model"] == plain["model"] | {"calibrated": True}
    logits = np.array([row["logit"] for row in plain["predictions"]])
    assert [row["logit"] for row in answer["predictions"]] == logits.tolist()
    for found, temperature in ((plain, 1.0), (answer, 0.5)):
        expected = softmax(logits.astype(np.float64) / temperature)
        np.testing.assert_allclose([row["probability"] for row in found["predictions"]], expected, rtol=1e-5)
    assert answer["unknown_score"] == pytest.approx(
        np.interp(-logsumexp(logits), [-30, -20, -10, 0, 10], np.arange(5) / 4)
    )


def test_answers_have_no_logits_unless_asked(folder: Path) -> None:
    assert set(ask(folder)["predictions"][0]) == {"class_id", "label", "probability"}


def test_an_explanation_has_the_calibrated_probability_too(folder: Path) -> None:
    answer = ask(calibrated(folder), {"explain": "True", "x-overlays": "none"})
    assert answer["explanations"][0]["probability"] == answer["predictions"][0]["probability"]


def test_recognized_follows_from_the_unknown_score(folder: Path) -> None:
    known = ask(calibrated(folder))
    assert (known["recognized"], known["unknown_score"] < 0.99) == (True, True)
    calibrated(folder, unknown={"energies": [-50.0, -40.0], "bound": 0.99})
    unknown = ask(folder)
    assert (unknown["recognized"], unknown["unknown_score"]) == (False, 1.0)
    # A threshold that somebody chose is a threshold of the probability alone.
    assert ask(folder, {"x-min-probability": "0"})["recognized"] is True
    assert ask(folder, min_probability=0.00101)["recognized"] is True


def test_a_threshold_of_the_class_precedes_the_general_one(folder: Path) -> None:
    best = ask(calibrated(folder))["class_id"]
    calibrated(folder, class_min_probability={best: 1.0})
    assert ask(folder)["recognized"] is False
    calibrated(folder, min_probability=1.0, class_min_probability={best: 0.0})
    assert ask(folder)["recognized"] is True


def test_the_page_says_why_and_that_the_model_is_calibrated(folder: Path) -> None:
    calibrated(folder, unknown={"energies": [-50.0, -40.0], "bound": 0.99})
    classifier = Classifier()
    classifier.initialize(make_context(folder))
    context = make_context(folder, headers={"accept": "text/html", "content-type": "multipart/form-data; boundary=x"})
    page = classifier.handle([{"file": bytearray(PHOTO)}], context)[0].decode()
    assert "It looks unlike the photos that the model knows" in page
    assert "Even the best guess" not in page.partition('id="facts"')[0]
    assert "fitted to 200 labelled photos" in page
