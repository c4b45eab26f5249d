"""Temperature, thresholds and quantiles against scipy, brute force and made-up truths."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from densenet.evaluation import calibration, metrics
from densenet.evaluation.answers import Outcome
from densenet.evaluation.calibration import Wanted

CLASSES = 12


def overconfident(images: int, factor: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits that are `factor` times those of the distribution that the classes are drawn from."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, CLASSES))
    shares = np.exp(log_softmax(logits, axis=1))
    truth = np.array([random.choice(CLASSES, p=share) for share in shares])
    return logits * factor, truth


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5, 8.0])
def test_the_temperature_is_the_likeliest(factor: float) -> None:
    logits, truth = overconfident(2000, factor)

    def loss(logarithm: float) -> float:
        return float(-log_softmax(logits / np.exp(logarithm), axis=1)[np.arange(len(truth)), truth].mean())

    expected = np.exp(minimize_scalar(loss, bracket=(-1, 1), tol=1e-10).x)
    found = calibration.fit_temperature(logits, truth)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found == pytest.approx(factor, rel=0.1)


def test_a_network_that_is_always_right_gets_a_temperature_all_the_same() -> None:
    logits, _ = overconfident(200, 1.0)
    assert 0 < calibration.fit_temperature(logits, logits.argmax(axis=1)) < 0.1


def test_a_network_that_knows_nothing_gets_a_high_one() -> None:
    logits, _ = overconfident(2000, 1.0)
    truth = np.random.default_rng(5).integers(0, CLASSES, 2000)
    assert calibration.fit_temperature(logits, truth) > 5


def test_energies_are_those_of_the_handler() -> None:
    logits, _ = overconfident(50, 4.0)
    np.testing.assert_allclose(calibration.energies(logits), -logsumexp(logits, axis=1), rtol=1e-12)


@pytest.mark.parametrize("precision", [0.5, 0.8, 0.95, 1.0])
def test_the_threshold_is_the_lowest_with_that_precision(precision: float) -> None:
    random = np.random.default_rng(3)
    confidence = random.random(300).round(2)  # many are equal
    right = random.random(300) < confidence**0.3
    right[confidence == confidence.max()] = True
    found = calibration.threshold(confidence, right, precision)
    fine = [value for value in np.unique(confidence) if right[confidence >= value].mean() >= precision]
    assert found == pytest.approx(min(fine), abs=1e-6)
    assert right[confidence >= found].mean() >= precision


def test_a_precision_that_nothing_reaches_is_told() -> None:
    with pytest.raises(ValueError, match=r"no threshold makes 90\.0% of the recognized images right"):
        calibration.threshold(np.array([0.5, 0.6]), np.array([True, False]), 0.9)


def test_an_interval_holds_the_error() -> None:
    logits, truth = overconfident(1000, 3.0)
    confidence = np.exp(log_softmax(logits, axis=1)).max(axis=1)
    right = logits.argmax(axis=1) == truth
    found = calibration.calibration_error(confidence, right)
    assert found.low < found.error < found.high
    assert found.high - found.low < 0.1


def test_the_entry_has_what_the_labels_say() -> None:
    logits, truth = overconfident(1500, 3.0)
    ids = [f"n{i:02}" for i in range(CLASSES)]
    outcomes = []
    for row in logits:
        order = row.argsort()[::-1][:5]
        shares = np.exp(log_softmax(row))
        outcomes.append(Outcome(tuple(ids[i] for i in order), tuple(shares[order]), recognized=True))
    outcomes[7] = Outcome(code="not_an_image", message="")
    scores = metrics.score([ids[i] for i in truth], outcomes, ids, 5)
    found = calibration.entry(scores, np.delete(logits, 7, axis=0), Wanted(0.05, 0.8), "abc")
    assert (found["images"], found["classes"], found["set_sha256"]) == (1500, CLASSES, "abc")
    assert found["temperature"] == pytest.approx(3, rel=0.1)
    before, after = found["calibration_error"]["before"], found["calibration_error"]["after"]
    assert after["high"] < before["low"]
    assert found["top1"]["right"] == int((np.delete(logits, 7, axis=0).argmax(axis=1) == np.delete(truth, 7)).sum())
    energies = found["unknown"]["energies"]
    assert len(energies) == 101
    assert energies == sorted(energies)
    # One in twenty of the labelled images is above the bound.
    own = -logsumexp(np.delete(logits, 7, axis=0), axis=1)
    assert (own > np.interp(found["unknown"]["bound"], np.linspace(0, 1, 101), energies)).mean() == pytest.approx(
        0.05, abs=0.002
    )
    assert 0 < found["min_probability"] < 1
    assert set(found["class_min_probability"]) == set(ids)
