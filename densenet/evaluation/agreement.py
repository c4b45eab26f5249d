"""Agreement of the service's answers with a reference's answers for the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densenet.evaluation.answers import Outcome


@dataclass(frozen=True)
class Difference:
    """One image that both answered. probability: the largest absolute difference for a class that both list, 0..1."""

    file: str
    ours: str
    theirs: str
    same_order: bool
    probability: float

    @property
    def same_top1(self) -> bool:
        """Return whether both have the same best class."""
        return self.ours == self.theirs


@dataclass(frozen=True)
class Agreement:
    """The agreement on the images that both answered.

    same_top1, same_order: shares of images, 0..1. largest, mean: absolute differences of the probabilities of classes
    in both top-5 lists. All four are 0 if both answered no image. one_sided: files that only one of them answered.
    differences: one per image, the largest disagreement first.
    """

    compared: int
    same_top1: float
    same_order: float
    largest: float
    mean: float
    one_sided: tuple[str, ...]
    differences: tuple[Difference, ...]


def compare(files: Sequence[str], ours: Mapping[str, Outcome], theirs: Mapping[str, Outcome]) -> Agreement:
    """Compare the answers for all files. Each mapping must contain every file."""
    one_sided = tuple(file for file in files if bool(ours[file].classes) != bool(theirs[file].classes))
    both = [file for file in files if ours[file].classes and theirs[file].classes]
    gaps = {file: _gaps(ours[file], theirs[file]) for file in both}
    differences = [_difference(file, ours[file], theirs[file], gaps[file]) for file in both]
    differences.sort(key=lambda item: (item.same_top1, item.same_order, -item.probability, item.file))
    every = np.array([gap for file in both for gap in gaps[file]] or [0.0])
    count = max(1, len(both))
    return Agreement(
        len(both),
        sum(difference.same_top1 for difference in differences) / count,
        sum(difference.same_order for difference in differences) / count,
        float(every.max()),
        float(every.mean()),
        one_sided,
        tuple(differences),
    )


def _gaps(ours: Outcome, theirs: Outcome) -> list[float]:
    probabilities = dict(zip(theirs.classes, theirs.probabilities, strict=True))
    pairs = zip(ours.classes, ours.probabilities, strict=True)
    return [abs(probability - probabilities[class_id]) for class_id, probability in pairs if class_id in probabilities]


def _difference(file: str, ours: Outcome, theirs: Outcome, gaps: Sequence[float]) -> Difference:
    return Difference(file, ours.classes[0], theirs.classes[0], ours.classes == theirs.classes, max(gaps, default=0.0))
