"""Metrics: pure functions from arrays of labels and predictions to numbers; nothing here reads a file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from densenet.evaluation.answers import Outcome

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BINS = 15  # of confidence, equally wide; the number of Guo et al.
_NONE = -1  # in place of a class: no answer, or fewer classes than columns


@dataclass(frozen=True)
class Scores:
    """N images as arrays. Classes are positions in `ids`.

    truth: int64 (N,). top: int64 (N, 5), best first, -1 where there is none. confidence: float64 (N,), of the best
    class, 0..1, NaN where there is no answer. recognized: bool (N,).
    """

    ids: tuple[str, ...]
    truth: Ints
    top: Ints
    confidence: Floats
    recognized: NDArray[np.bool_]

    @property
    def answered(self) -> NDArray[np.bool_]:
        """bool (N,): whether there is an answer at all."""
        return np.not_equal(self.top[:, 0], _NONE)


@dataclass(frozen=True)
class Proportion:
    """A share of right answers and its 95 % interval, all in 0..1."""

    right: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """How many images of one class there are, and of how many it came first."""

    position: int
    images: int
    right: int


@dataclass(frozen=True)
class Calibration:
    """Whether confidence is what it says.

    edges: float64 (BINS + 1,), 0..1. images: int64 (BINS,). confidence, accuracy: float64 (BINS,), the means of each
    bin, NaN for an empty one. error: the expected calibration error, and mean_confidence, both 0..1 and NaN without
    any answer.
    """

    edges: Floats
    images: Ints
    confidence: Floats
    accuracy: Floats
    error: float
    mean_confidence: float


def score(labels: Sequence[str], outcomes: Sequence[Outcome], ids: Sequence[str], columns: int) -> Scores:
    """Arrays of labels and outcomes, both in the images' order. Every class id that occurs must be in ids."""
    position = {class_id: i for i, class_id in enumerate(ids)}
    top = np.full((len(outcomes), columns), _NONE, dtype=np.int64)
    for row, outcome in zip(top, outcomes, strict=True):
        row[: len(outcome.classes)] = [position[class_id] for class_id in outcome.classes]
    return Scores(
        tuple(ids),
        np.array([position[label] for label in labels], dtype=np.int64),
        top,
        np.array([outcome.probabilities[0] if outcome.classes else math.nan for outcome in outcomes]),
        np.array([outcome.recognized for outcome in outcomes], dtype=np.bool_),
    )


def accuracy(scores: Scores, k: int) -> Proportion:
    """The share of images whose class is among the k best; an image without an answer is a wrong one."""
    hits = (scores.top[:, :k] == scores.truth[:, None]).any(axis=1)
    return proportion(int(hits.sum()), len(hits))


def proportion(right: int, count: int) -> Proportion:
    """right of count, with Wilson's score interval (Wilson 1927), which holds near 0 and 1 and for few images too."""
    z = NormalDist().inv_cdf(0.975)
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Proportion(right, share, max(0.0, middle - half), min(1.0, middle + half))


def by_class(scores: Scores) -> list[ClassScore]:
    """Top-1 of every class that has images, the worst first; of equally bad ones that with the most images."""
    size = len(scores.ids)
    images = np.bincount(scores.truth, minlength=size)
    right = np.bincount(scores.truth[scores.top[:, 0] == scores.truth], minlength=size)
    found = [ClassScore(int(i), int(images[i]), int(right[i])) for i in np.flatnonzero(images)]
    return sorted(found, key=lambda one: (one.right / one.images, -one.images, one.position))


def confusions(scores: Scores) -> list[tuple[int, int, int]]:
    """(true class, predicted class, images), the most frequent first."""
    wrong = scores.answered & (scores.top[:, 0] != scores.truth)
    pairs = np.stack([scores.truth[wrong], scores.top[wrong, 0]], axis=1)
    values, counts = np.unique(pairs, axis=0, return_counts=True)
    found = [(int(t), int(p), int(n)) for (t, p), n in zip(values, counts, strict=True)]
    return sorted(found, key=lambda one: (-one[2], one[:2]))


def confusion_matrix(scores: Scores, classes: Sequence[int]) -> Ints:
    """int64 (C, C): images of the row's class that were taken for the column's, for the C classes given."""
    place: Mapping[int, int] = {position: i for i, position in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for truth, predicted in zip(scores.truth.tolist(), scores.top[:, 0].tolist(), strict=True):
        if truth in place and predicted in place:
            matrix[place[truth], place[predicted]] += 1
    return matrix


def calibrate(scores: Scores) -> Calibration:
    """Confidence against accuracy in 15 bins of equal width, each with its upper edge and without its lower one.

    The expected calibration error is the mean distance of the two, weighted by the images of each bin: Guo, Pleiss,
    Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3. Images without an answer have
    no confidence and are left out.
    """
    answered = scores.answered
    confidence = scores.confidence[answered]
    right = (scores.top[answered, 0] == scores.truth[answered]).astype(np.float64)
    edges = np.linspace(0, 1, BINS + 1)
    # Compared with the inner edges only, 0 falls into the first bin and 1 into the last.
    bins = np.searchsorted(edges[1:-1], confidence)
    images = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights=values, minlength=BINS) for values in (confidence, right))
    means, shares = (np.divide(one, images, out=np.full(BINS, math.nan), where=images > 0) for one in sums)
    if not len(confidence):
        return Calibration(edges, images, means, shares, math.nan, math.nan)
    error = np.nansum(np.abs(means - shares) * images) / len(confidence)
    return Calibration(edges, images, means, shares, float(error), float(confidence.mean()))
