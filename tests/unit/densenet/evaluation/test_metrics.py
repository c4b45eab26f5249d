"""Metrics against scikit-learn's and against cases worked out by hand.

Only the tests that need scikit-learn import it: that takes seconds, and every process of tests imports every module.
"""

import math

import numpy as np
import pytest

from densenet.evaluation import metrics
from densenet.evaluation.answers import Outcome
from densenet.evaluation.metrics import Scores

CLASSES = tuple(f"class {i}" for i in range(12))


def one_by_one(*rows: tuple[str, str | None, float]) -> Scores:
    """(true class, predicted class or None, confidence), of the classes a, b and c."""
    outcomes = [Outcome((said,), (how,), how >= 0.2) if said else Outcome(code="broken") for _, said, how in rows]
    return metrics.score([truth for truth, _, _ in rows], outcomes, "abc", 5)


@pytest.fixture(scope="module")
def probabilities() -> np.ndarray:
    logits = np.random.default_rng(1).normal(size=(500, len(CLASSES))) * 3
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def truth(probabilities: np.ndarray) -> np.ndarray:
    generator = np.random.default_rng(2)
    return np.array([generator.choice(len(CLASSES), p=row**2 / (row**2).sum()) for row in probabilities])


@pytest.fixture(scope="module")
def scores(probabilities: np.ndarray, truth: np.ndarray) -> Scores:
    outcomes = []
    for row in probabilities:
        best = np.argsort(-row)[:5]
        outcomes.append(Outcome(tuple(CLASSES[i] for i in best), tuple(row[best].tolist()), True))
    return metrics.score([CLASSES[i] for i in truth], outcomes, CLASSES, 5)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_accuracy_is_scikit_learns(scores: Scores, probabilities: np.ndarray, truth: np.ndarray, k: int) -> None:
    from sklearn.metrics import top_k_accuracy_score

    expected = top_k_accuracy_score(truth, probabilities, k=k, labels=range(len(CLASSES)))
    assert metrics.accuracy(scores, k).share == pytest.approx(expected, abs=1e-12)


def test_the_confusion_matrix_is_scikit_learns(scores: Scores, probabilities: np.ndarray, truth: np.ndarray) -> None:
    from sklearn.metrics import confusion_matrix

    classes = [7, 0, 3, 11]
    expected = confusion_matrix(truth, probabilities.argmax(axis=1), labels=classes)
    assert (metrics.confusion_matrix(scores, classes) == expected).all()


def test_confusions_and_classes_count_what_the_matrix_counts(
    scores: Scores, probabilities: np.ndarray, truth: np.ndarray
) -> None:
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(truth, probabilities.argmax(axis=1), labels=range(len(CLASSES)))
    found = metrics.confusions(scores)
    assert [count for _, _, count in found] == sorted((c for _, _, c in found), reverse=True)
    assert sum(count for _, _, count in found) == matrix.sum() - np.trace(matrix)
    assert all(matrix[true, predicted] == count for true, predicted, count in found)
    by_class = {one.position: (one.images, one.right) for one in metrics.by_class(scores)}
    assert by_class == {i: (matrix[i].sum(), matrix[i, i]) for i in range(len(CLASSES)) if matrix[i].sum()}
    shares = [one.right / one.images for one in metrics.by_class(scores)]
    assert shares == sorted(shares)


def test_the_reliability_diagram_is_scikit_learns(scores: Scores, probabilities: np.ndarray, truth: np.ndarray) -> None:
    from sklearn.calibration import calibration_curve

    right = probabilities.argmax(axis=1) == truth
    accuracy, confidence = calibration_curve(right, probabilities.max(axis=1), n_bins=metrics.BINS)
    found = metrics.calibrate(scores)
    filled = found.images > 0
    assert found.accuracy[filled] == pytest.approx(accuracy)
    assert found.confidence[filled] == pytest.approx(confidence)
    assert found.mean_confidence == pytest.approx(probabilities.max(axis=1).mean())
    assert 0 < found.error < 1


def test_the_calibration_error_of_a_case_worked_out_by_hand() -> None:
    # Bins (0.6, 0.667]: 2 images, confidence 0.63, accuracy 1/2; (0.867, 0.933]: 2 images, 0.9, accuracy 1.
    scores = one_by_one(("a", "a", 0.62), ("a", "b", 0.64), ("b", "b", 0.89), ("c", "c", 0.91))
    found = metrics.calibrate(scores)
    assert found.error == pytest.approx((2 * abs(0.5 - 0.63) + 2 * abs(1 - 0.9)) / 4)
    assert found.images[[9, 13]].tolist() == [2, 2]


def test_confidences_at_the_edges_fall_into_the_outer_bins() -> None:
    found = metrics.calibrate(one_by_one(("a", "a", 1.0), ("a", "b", 0.0), ("b", "b", 1 / 15), ("b", "b", 14 / 15)))
    assert (found.images[0], found.images[13], found.images[14]) == (2, 1, 1)
    assert found.error == pytest.approx((2 * abs(0.5 - 1 / 30) + 1 / 15 + 0) / 4)


def test_always_sure_and_always_right_is_perfectly_calibrated() -> None:
    assert metrics.calibrate(one_by_one(("a", "a", 1.0), ("b", "b", 1.0))).error == 0


def test_always_sure_and_never_right_is_as_bad_as_can_be() -> None:
    scores = one_by_one(("a", "b", 1.0), ("b", "a", 1.0))
    assert metrics.calibrate(scores).error == 1
    assert (metrics.accuracy(scores, 1).share, metrics.accuracy(scores, 5).share) == (0, 0)


def test_one_class_only() -> None:
    outcomes = [Outcome(("a",), (1.0,), True)] * 3
    scores = metrics.score(["a"] * 3, outcomes, ["a"], 5)
    assert metrics.accuracy(scores, 1) == metrics.accuracy(scores, 5)
    assert metrics.accuracy(scores, 1).share == 1
    assert metrics.confusions(scores) == []
    assert metrics.by_class(scores) == [metrics.ClassScore(0, 3, 3)]


def test_images_without_an_answer_are_wrong_but_neither_confused_nor_confident() -> None:
    scores = one_by_one(("a", "a", 0.9), ("b", None, 0), ("b", "c", 0.5))
    assert scores.answered.tolist() == [True, False, True]
    assert metrics.accuracy(scores, 1).share == pytest.approx(1 / 3)
    assert metrics.confusions(scores) == [(1, 2, 1)]
    assert metrics.calibrate(scores).mean_confidence == pytest.approx(0.7)
    assert metrics.by_class(scores)[0] == metrics.ClassScore(1, 2, 0)


def test_without_any_answer_calibration_is_unknown() -> None:
    found = metrics.calibrate(one_by_one(("a", None, 0), ("b", None, 0)))
    assert math.isnan(found.error)
    assert math.isnan(found.mean_confidence)


# Right, all, and the interval as Newcombe 1998 (table I, method 3) and Brown et al. 2001 print it.
@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(right: int, count: int, low: float, high: float) -> None:
    found = metrics.proportion(right, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    mirrored = metrics.proportion(count - right, count)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - high, 1 - low), abs=5e-5)
