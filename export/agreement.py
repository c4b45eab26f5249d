"""Compare the exported network with the eager one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from export import PHOTOS, Precision
from export.console import CliError
from handler.cropping import CROP, RESIZE

# Largest difference of a logit, in standard deviations of the image's logits. bf16 has 8 bits of precision and fp16 has
# 11. The effect depends on the weights: random filters, which amplify noise, reached 0.2 and 0.03.
TOLERANCES = {Precision.FP32: 1e-4, Precision.BF16: 0.5, Precision.FP16: 0.1}
BATCHES = 10  # four photos and four images of noise, each alone and all four together
BATCH = 8  # images that `compare` computes at once
TOP = 5  # classes whose order must be the same in fp32
Logits = Callable[[Tensor], Tensor]  # batch (N, 3, 224, 224) → (N, classes)


def check(
    eager: Logits,
    exported: Logits,
    precision: Precision = Precision.FP32,
    batch_done: Callable[[], None] = lambda: None,
) -> float:
    """Compare both networks on photos and on random input, at batch sizes 1 and 4.

    Return the largest difference of a logit, in standard deviations of its image's logits.

    batch_done: called after each of BATCHES batches.

    Raises: CliError if the difference exceeds the tolerance or, in fp32, if the order of the best classes differs.
    """
    from torchvision.models import DenseNet121_Weights  # takes seconds; see network.build()

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3, CROP, CROP, generator=generator)
    # torchvision's own transform, so that the comparison does not depend on the code under test.
    transform = DenseNet121_Weights.IMAGENET1K_V1.transforms(resize_size=RESIZE, crop_size=CROP)
    photos = torch.stack([transform(Image.open(path)) for path in sorted(PHOTOS.glob("*.jpg"))])
    differences = []
    with torch.inference_mode():
        for batch in (batch for images in (photos, noise) for size in (1, 4) for batch in images.split(size)):
            differences.append(_compare(eager(batch), exported(batch), precision))
            batch_done()
    return max(differences)


def _compare(expected: Tensor, actual: Tensor, precision: Precision) -> float:
    if expected.shape != actual.shape:
        shapes = f"{tuple(actual.shape)}, not {tuple(expected.shape)} as the eager one"
        raise CliError(f"the exported network returns logits of shape {shapes}")
    std = expected.std(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    difference = float(((expected - actual).abs() / std).max())
    tolerance = TOLERANCES[precision]
    if not difference <= tolerance:  # true for NaN, too
        raise CliError(f"the exported network differs from the eager one by {difference:.1e}, more than {tolerance:g}")
    top = min(TOP, expected.shape[1])
    if precision is Precision.FP32 and not torch.equal(expected.topk(top).indices, actual.topk(top).indices):
        raise CliError(f"the exported network's order of the best {top} classes differs from the eager one's")
    return difference


@dataclass(frozen=True)
class Resemblance:
    """The similarity of two networks' outputs.

    images: number of images. same_top1: share with the same best class, 0..1. mean_distance, largest_distance: total
    variation distance of an image's probabilities, 0..1.
    """

    images: int
    same_top1: float
    mean_distance: float
    largest_distance: float


def compare(
    eager: Logits, exported: Logits, images: Tensor, batch_done: Callable[[], None] = lambda: None
) -> Resemblance:
    """Compare both networks on float32 (N, 3, 224, 224), normalized.

    batch_done: called after each batch of BATCH images.
    """
    pairs = []
    with torch.inference_mode():
        for part in images.split(BATCH):
            pairs.append((eager(part), exported(part)))
            batch_done()
    expected, actual = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
    distances = (expected.softmax(1) - actual.softmax(1)).abs().sum(1) / 2
    same = (expected.argmax(1) == actual.argmax(1)).float().mean()
    return Resemblance(len(images), float(same), float(distances.mean()), float(distances.max()))
