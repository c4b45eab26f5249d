"""Agreement: the service's answers beside those of somebody else about the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densenet.evaluation.answers import Outcome


@dataclass(frozen=True)
class Difference:
    """One image, answered by both. probability: the largest absolute difference of a class that both list, 0..1."""

    file: str
    ours: str
    theirs: str
    same_order: bool
    probability: float

    @property
    def same_top1(self) -> bool:
        """Whether both say the same class first."""
        return self.ours == self.theirs


@dataclass(frozen=True)
class Agreement:
    """How far both agree on the images that both answered.

    same_top1, same_order: shares of images, 0..1. largest, mean: absolute difference of the probabilities of classes
    among the best five of both. All four are 0 without any such image. one_sided: files that only one of the two
    answered. differences: of every image, the largest disagreement first.
    """

    compared: int
    same_top1: float
    same_order: float
    largest: float
    mean: float
    one_sided: tuple[str, ...]
    differences: tuple[Difference, ...]


def compare(files: Sequence[str], ours: Mapping[str, Outcome], theirs: Mapping[str, Outcome]) -> Agreement:
    """Both answers about every file; each mapping has all of them."""
    one_sided = tuple(file for file in files if bool(ours[file].classes) != bool(theirs[file].classes))
    both = [file for file in files if ours[file].classes and theirs[file].classes]
    gaps = {file: _gaps(ours[file], theirs[file]) for file in both}
    differences = [_difference(file, ours[file], theirs[file], gaps[file]) for file in both]
    differences.sort(key=lambda one: (one.same_top1, one.same_order, -one.probability, one.file))
    every = np.array([gap for file in both for gap in gaps[file]] or [0.0])
    count = max(1, len(both))
    return Agreement(
        len(both),
        sum(one.same_top1 for one in differences) / count,
        sum(one.same_order for one in differences) / count,
        float(every.max()),
        float(every.mean()),
        one_sided,
        tuple(differences),
    )


def _gaps(ours: Outcome, theirs: Outcome) -> list[float]:
    known = dict(zip(theirs.classes, theirs.probabilities, strict=True))
    pairs = zip(ours.classes, ours.probabilities, strict=True)
    return [abs(probability - known[class_id]) for class_id, probability in pairs if class_id in known]


def _difference(file: str, ours: Outcome, theirs: Outcome, gaps: Sequence[float]) -> Difference:
    return Difference(file, ours.classes[0], theirs.classes[0], ours.classes == theirs.classes, max(gaps, default=0.0))
