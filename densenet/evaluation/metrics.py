"""Metrics: pure functions from arrays of labels and predictions to numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from densenet.evaluation.answers import Outcome

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BINS = 15  # confidence bins of equal width, as in Guo et al.
_NONE = -1  # stands for no class: no answer, or fewer classes than columns


@dataclass(frozen=True)
class Scores:
    """N images as arrays. Classes are positions in `ids`.

    truth: int64 (N,). top: int64 (N, 5), best first, -1 for none. confidence: float64 (N,), probability of the best
    class, 0..1, NaN without an answer. recognized: bool (N,).
    """

    ids: tuple[str, ...]
    truth: Ints
    top: Ints
    confidence: Floats
    recognized: NDArray[np.bool_]

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Return bool (N,): whether the image has an answer."""
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
    """The number of images of one class, and of those with it as the best class."""

    position: int
    images: int
    right: int


@dataclass(frozen=True)
class Calibration:
    """Confidence compared with accuracy.

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
    """Convert labels and outcomes, both in the images' order, to arrays. Every class id must be in ids."""
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
    """Return the share of images whose class is among the k best. Images without an answer count as wrong."""
    hits = (scores.top[:, :k] == scores.truth[:, None]).any(axis=1)
    return proportion(int(hits.sum()), len(hits))


def proportion(right: int, count: int) -> Proportion:
    """Return right / count with Wilson's score interval (Wilson 1927), valid near 0 and 1 and for few images."""
    z = NormalDist().inv_cdf(0.975)
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Proportion(right, share, max(0.0, middle - half), min(1.0, middle + half))


def by_class(scores: Scores) -> list[ClassScore]:
    """Return the top-1 score of every class with images, the worst first; ties by number of images, descending."""
    size = len(scores.ids)
    images = np.bincount(scores.truth, minlength=size)
    right = np.bincount(scores.truth[scores.top[:, 0] == scores.truth], minlength=size)
    class_scores = [ClassScore(int(i), int(images[i]), int(right[i])) for i in np.flatnonzero(images)]
    return sorted(class_scores, key=lambda item: (item.right / item.images, -item.images, item.position))


def confusions(scores: Scores) -> list[tuple[int, int, int]]:
    """Return (true class, predicted class, images), the most frequent first."""
    wrong = scores.answered & (scores.top[:, 0] != scores.truth)
    pairs = np.stack([scores.truth[wrong], scores.top[wrong, 0]], axis=1)
    values, counts = np.unique(pairs, axis=0, return_counts=True)
    triples = [(int(t), int(p), int(n)) for (t, p), n in zip(values, counts, strict=True)]
    return sorted(triples, key=lambda triple: (-triple[2], triple[:2]))


def confusion_matrix(scores: Scores, classes: Sequence[int]) -> Ints:
    """Return int64 (C, C): images of the row's class that were predicted as the column's, for the C classes given."""
    index: Mapping[int, int] = {position: i for i, position in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for truth, predicted in zip(scores.truth.tolist(), scores.top[:, 0].tolist(), strict=True):
        if truth in index and predicted in index:
            matrix[index[truth], index[predicted]] += 1
    return matrix


def calibrate(scores: Scores) -> Calibration:
    """Compare the service's confidence with its accuracy. Images without an answer are left out."""
    answered = scores.answered
    return compare_confidence(scores.confidence[answered], scores.top[answered, 0] == scores.truth[answered])


def compare_confidence(confidence: Floats, right: NDArray[np.bool_]) -> Calibration:
    """Compare confidence, (N,), with accuracy in 15 bins of equal width, each including its upper edge only.

    The expected calibration error is the mean difference of the two, weighted by the images of each bin: Guo, Pleiss,
    Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    edges = np.linspace(0, 1, BINS + 1)
    # Only the inner edges are used, so that 0 falls into the first bin and 1 into the last.
    bins = np.searchsorted(edges[1:-1], confidence)
    images = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights=values, minlength=BINS) for values in (confidence, right.astype(np.float64)))
    means, shares = (np.divide(total, images, out=np.full(BINS, math.nan), where=images > 0) for total in sums)
    if not len(confidence):
        return Calibration(edges, images, means, shares, math.nan, math.nan)
    error = float(np.nansum(np.abs(means - shares) * images) / len(confidence))
    return Calibration(edges, images, means, shares, error, float(confidence.mean()))
