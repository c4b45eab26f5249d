"""Calibration: what the logits of labelled images say about probabilities and about the unknown; pure functions.

N answered images, C classes. What the numbers become in the service: handler/calibration.py.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densenet.evaluation import metrics
from densenet.evaluation.metrics import Floats, Ints, Scores

MIN_IMAGES = 100  # below, a temperature and a share of one percent mean nothing
_FOLDS = 5
_QUANTILES = 101  # of the energies, so that they are a percent apart
_RESAMPLES = 1000
_CLASS_IMAGES = 20  # answered with a class, for the class to get a threshold of its own
_STEPS = 50


@dataclass(frozen=True)
class Wanted:
    """What thresholds should achieve: shares in 0..1.

    reject_at: of the labelled images that are not recognized, whatever their answer. min_precision: of the recognized
    ones that are right; None for no threshold of the probability.
    """

    reject_at: float
    min_precision: float | None = None


@dataclass(frozen=True)
class CalibrationError:
    """An expected calibration error, and its 95 % interval by bootstrap, all in 0..1."""

    error: float
    low: float
    high: float


def entry(scores: Scores, logits: Floats, wanted: Wanted, set_sha256: str) -> dict[str, Any]:
    """Return the entry of an evaluation file, as export/evaluation.py describes it.

    scores: of all images. logits: (N, C) of the answered ones, columns as in scores.ids.

    Raises: ValueError if no threshold reaches the wanted precision.
    """
    answered = scores.answered
    truth = scores.truth[answered]
    right = scores.top[answered, 0] == truth
    temperature = fit_temperature(logits, truth)
    held_out = _confidence(logits, _held_out_temperatures(logits, truth)[:, None])
    confidence = _confidence(logits, temperature)
    min_probability, by_class = 0.0, dict[str, float]()
    if wanted.min_precision is not None:
        min_probability = threshold(confidence, right, wanted.min_precision)
        by_class = _class_thresholds(scores.ids, scores.top[answered, 0], confidence, right, wanted.min_precision)
    return {
        "images": len(scores.truth),
        "classes": len(np.unique(scores.truth)),
        "set_sha256": set_sha256,
        "top1": asdict(metrics.accuracy(scores, 1)),
        "top5": asdict(metrics.accuracy(scores, 5)),
        "temperature": round(temperature, 4),
        "calibration_error": {
            "before": asdict(calibration_error(_confidence(logits, 1.0), right)),
            "after": asdict(calibration_error(held_out, right)),
        },
        "unknown": {
            "energies": np.quantile(energies(logits), np.linspace(0, 1, _QUANTILES)).round(4).tolist(),
            "bound": round(1 - wanted.reject_at, 6),
        },
        "min_precision": wanted.min_precision,
        "min_probability": min_probability,
        "class_min_probability": by_class,
    }


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """Return the temperature with the least negative log-likelihood of the true classes, logits (N, C), truth (N,).

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. The likelihood
    is convex in 1 / temperature, so Newton's method finds it; steps are halved where it would overshoot.
    """
    own = logits[np.arange(len(truth)), truth]
    inverse = 1.0
    for _ in range(_STEPS):
        shares = _softmax(logits * inverse)
        mean = (shares * logits).sum(axis=1)
        slope = float((mean - own).mean())
        curvature = float(((shares * logits**2).sum(axis=1) - mean**2).mean())
        step = slope / max(curvature, 1e-12)
        inverse = inverse - step if step < inverse else inverse / 2
        inverse = min(inverse, 1e3)  # where every answer is right, the likelihood has no maximum
        if abs(step) < 1e-9:
            break
    return 1 / inverse


def _held_out_temperatures(logits: Floats, truth: Ints) -> Floats:
    """Return the temperature for each image, (N,), fitted to the four fifths of the images that it is not among."""
    folds = np.arange(len(truth)) % _FOLDS
    temperatures = np.empty(len(truth))
    for fold in range(_FOLDS):
        temperatures[folds == fold] = fit_temperature(logits[folds != fold], truth[folds != fold])
    return temperatures


def energies(logits: Floats) -> Floats:
    """Return the free energies, (N,), of logits, (N, C): see handler.calibration.energy()."""
    highest = logits.max(axis=1)
    values: Floats = -(highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)))
    return values


def calibration_error(confidence: Floats, right: NDArray[np.bool_]) -> CalibrationError:
    """Return the expected calibration error of confidences (N,) and whether their answers are right (N,).

    The interval is the percentile bootstrap's with a fixed seed, moved so that its mean is the error: in a resample,
    chance makes every bin differ more, which raises all of their errors.
    """
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(right), (_RESAMPLES, len(right)))
    errors = [metrics.compare_confidence(confidence[rows], right[rows]).error for rows in chosen]
    error = metrics.compare_confidence(confidence, right).error
    low, high = np.quantile(errors, [0.025, 0.975]) - np.mean(errors) + error
    return CalibrationError(error, max(0.0, float(low)), float(high))


def threshold(confidence: Floats, right: NDArray[np.bool_], precision: float) -> float:
    """Return the lowest confidence from which on at least that share of the answers is right.

    Raises: ValueError if there is none.
    """
    order = np.argsort(-confidence, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # A threshold has all answers of the same confidence on one side.
    last = np.append(confidence[order][1:] != confidence[order][:-1], True)
    enough = np.flatnonzero((shares >= precision) & last)
    if not len(enough):
        raise ValueError(f"no threshold makes {precision:.1%} of the recognized images right")
    return _round_down(float(confidence[order][enough[-1]]))


def _class_thresholds(
    ids: tuple[str, ...], predicted: Ints, confidence: Floats, right: NDArray[np.bool_], precision: float
) -> dict[str, float]:
    thresholds = {}
    for position in np.unique(predicted).tolist():
        rows = predicted == position
        if rows.sum() >= _CLASS_IMAGES:
            try:
                thresholds[ids[position]] = threshold(confidence[rows], right[rows], precision)
            except ValueError:
                thresholds[ids[position]] = 1.0
    return thresholds


def _round_down(value: float) -> float:
    return math.floor(value * 1e6) / 1e6


def _confidence(logits: Floats, temperature: float | Floats) -> Floats:
    confidence: Floats = _softmax(logits / temperature).max(axis=1)
    return confidence


def _softmax(logits: Floats) -> Floats:
    values: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    values /= values.sum(axis=1, keepdims=True)
    return values
