"""The results of one image."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from handler.cropping import Box
from handler.ranking import Prediction


@dataclass(frozen=True)
class Explanation:
    """The explanation of one class on one image."""

    prediction: Prediction
    bias: float
    """The class's bias: its logit is the mean of the map plus this."""
    map: Sequence[Sequence[float]]
    """The class activation map, 7 × 7, in units of logits: rows from the top, each from the left."""
    overlay: bytes | None = None
    """A PNG of the crop with the heatmap over it."""
    picture: bytes | None = None
    """A PNG of the whole upright image with the heatmap over its crop; the rest is dimmed."""


@dataclass(frozen=True)
class ImageResult:
    """The result of one image: its ranked classes and, if requested, explanations and embedding.

    crop: the crop's box in fractions of the upright image's width and height; None for a preprocessed tensor.
    """

    predictions: tuple[Prediction, ...]
    recognized_by_default: bool
    """Whether the image is recognized unless a request sets min_probability."""
    explanations: tuple[Explanation, ...] = ()
    crop: Box | None = None
    shown: Image | None = None
    """The upright image, scaled down, if the answer contains it."""
    embedding: Sequence[float] = ()
    """float32 numbers, (1024,); empty unless requested."""
    unknown_score: float | None = None
    """0..1, the higher the less the image looks like any class; None if the model is not calibrated."""

    def recognized(self, min_probability: float | None) -> bool:
        """Return whether the best class reaches the request's threshold in 0..1; None stands for the model's rule."""
        if min_probability is None:
            return self.recognized_by_default
        return self.predictions[0].probability >= min_probability
