"""Agreement: does the exported network say what the eager one says?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.models import DenseNet121_Weights

from export import PHOTOS, Precision
from export.console import Problem
from handler.cropping import CROP, RESIZE

# Largest difference of a logit, in standard deviations of the image's logits. The two halves have 8 and 11 bits; what
# that comes to depends on the weights: on random filters, which amplify noise, 0.2 and 0.03 were seen.
TOLERANCES = {Precision.FP32: 1e-4, Precision.BF16: 0.5, Precision.FP16: 0.1}
TOP = 5  # classes whose order must be the same in fp32
Logits = Callable[[Tensor], Tensor]  # pictures (N, 3, 224, 224) → (N, classes)


def check(eager: Logits, exported: Logits, precision: Precision = Precision.FP32) -> float:
    """Compares both on real photographs and on random input, at batch sizes 1 and 4.

    Returns the largest difference of a logit, relative to the standard deviation of its image's logits.
    Raises Problem when that exceeds the precision's tolerance, or, in fp32, the order of the best classes differs.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3, CROP, CROP, generator=generator)
    # torchvision's own transform, not ours: what is compared should not hinge on the code under test.
    transform = DenseNet121_Weights.IMAGENET1K_V1.transforms(resize_size=RESIZE, crop_size=CROP)
    photos = torch.stack([transform(Image.open(path)) for path in sorted(PHOTOS.glob("*.jpg"))])
    with torch.inference_mode():
        differences = [
            _compare(eager(batch), exported(batch), precision)
            for images in (photos, noise)
            for size in (1, 4)
            for batch in images.split(size)
        ]
    return max(differences)


def _compare(expected: Tensor, actual: Tensor, precision: Precision) -> float:
    if expected.shape != actual.shape:
        raise Problem(f"the exported network answers {tuple(actual.shape)}, the eager one {tuple(expected.shape)}")
    spread = expected.std(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    difference = float(((expected - actual).abs() / spread).max())
    tolerance = TOLERANCES[precision]
    if not difference <= tolerance:  # also when it is not a number
        raise Problem(f"the exported network differs from the eager one by {difference:.1e}, allowed is {tolerance:g}")
    top = min(TOP, expected.shape[1])
    if precision is Precision.FP32 and not torch.equal(expected.topk(top).indices, actual.topk(top).indices):
        raise Problem(f"the exported network ranks the best {top} classes in another order than the eager one")
    return difference


@dataclass(frozen=True)
class Resemblance:
    """How alike two networks answer some images.

    images: how many. same_top1: share with the same best class. mean_distance, largest_distance: half the sum of
    absolute differences of an image's probabilities (total variation). All but the first in 0..1.
    """

    images: int
    same_top1: float
    mean_distance: float
    largest_distance: float


def compare(eager: Logits, exported: Logits, images: Tensor) -> Resemblance:
    """Compares both on float32 (N, 3, 224, 224), normalized."""
    with torch.inference_mode():
        pairs = [(eager(part), exported(part)) for part in images.split(8)]
    expected, actual = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
    distances = (expected.softmax(1) - actual.softmax(1)).abs().sum(1) / 2
    same = (expected.argmax(1) == actual.argmax(1)).float().mean()
    return Resemblance(len(images), float(same), float(distances.mean()), float(distances.max()))
