"""Calibrate: what labelled photos taught about a network's numbers, from the model card.

scripts/evaluate --calibrate measures it, and scripts/archive --calibration puts it into the card. Without it, all
probabilities are the softmax of the network's own logits.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing it takes seconds, and scripts/archive reads calibrations without it
    import torch


@dataclass(frozen=True)
class Calibration:
    """The calibration of one network in one precision."""

    temperature: float
    """Logits are divided by it before the softmax (Guo et al. 2017, arXiv:1706.04599)."""
    energies: Sequence[float]
    """Ascending quantiles, at equal distances from the least to the greatest, of the energies of labelled photos."""
    bound: float
    """Maximum unknown_score for an image to be recognized, 0..1."""
    min_probability: float = 0.0
    """Minimum probability of the best class for an image to be recognized."""
    class_min_probability: Mapping[str, float] = field(default_factory=dict)
    """The same for single classes, by id."""

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> "Calibration | None":
        """Read the calibration for the card's precision, if it has one."""
        measured = measured_with(card)
        if measured is None:
            return None
        return cls(
            temperature=measured["temperature"],
            energies=measured["unknown"]["energies"],
            bound=measured["unknown"]["bound"],
            min_probability=measured["min_probability"],
            class_min_probability=measured["class_min_probability"],
        )

    def with_min_probability(self, value: float) -> "Calibration":
        """Return this calibration with a threshold that an operator chose in place of the measured ones."""
        return replace(self, bound=1.0, min_probability=value, class_min_probability={})

    def unknown_score(self, logits: "torch.Tensor") -> float:
        """Return the share of the labelled photos that look more like the network's classes than this image, 0..1.

        logits: float32 (classes,). Photos are compared by their energies.
        """
        value = energy(logits)
        above = bisect_right(self.energies, value)
        if above == 0 or above == len(self.energies):
            return float(above > 0)
        low, high = self.energies[above - 1], self.energies[above]
        return (above - 1 + (value - low) / (high - low)) / (len(self.energies) - 1)

    def recognizes(self, class_id: str, probability: float, unknown_score: float) -> bool:
        """Return whether an image is recognized: known enough, and its best class probable enough."""
        return unknown_score <= self.bound and probability >= self.class_min_probability.get(
            class_id, self.min_probability
        )


def measured_with(card: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what was measured in a model card's precision, as export/evaluation.py describes it, if anything."""
    measured: Mapping[str, Any] | None = card.get("evaluation", {}).get(card["precision"])
    return measured


def energy(logits: "torch.Tensor") -> float:
    """Return the free energy of logits, float32 (classes,): high where no class fits (Liu et al. 2020, equation 4).

    "Energy-based Out-of-distribution Detection", arXiv:2010.03759, with a temperature of 1.
    """
    return -float(logits.double().logsumexp(dim=0))
