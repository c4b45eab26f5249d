"""Transform: from an upright RGB picture to the float32 tensor that the network was trained on.

The numbers are those of torchvision's ImageNet transform as the tutorials use it: Resize(255), CenterCrop(224),
ToTensor(), Normalize(mean, std). The result equals theirs to the bit (up to a rounding where
a side is more than 64 times the other); torchvision itself is not imported, since that
costs a worker six seconds and 170 MB.
"""

from collections.abc import Sequence

import torch
from PIL import Image

RESIZE = 255  # pixels, the shorter side after resizing
ENOUGH = 2 * RESIZE  # pixels of a shorter side that a picture may have been scaled down to before
CROP = 224  # pixels, the side of the square that the network sees
MEAN = (0.485, 0.456, 0.406)  # red, green, blue, of values in 0..1: torchvision's ImageNet presets
STD = (0.229, 0.224, 0.225)

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, from the upper left corner."""

# A long side beyond this is never resized as a whole, only the part that the crop keeps: a picture of 1 × 100000
# would grow to 255 × 25500000 pixels first.
_LONGEST_RESIZED = 64 * RESIZE


def crop(image: Image.Image) -> Image.Image:
    """The centre of the picture as the network sees it: RGB, 224 × 224 pixels."""
    resized = _resized(*image.size)
    if max(resized) <= _LONGEST_RESIZED:
        whole = image.resize(resized, Image.Resampling.BILINEAR)
        return whole.crop(_centre(*resized))
    return image.resize((CROP, CROP), Image.Resampling.BILINEAR, box=crop_box(*image.size))


def crop_box(width: int, height: int) -> Box:
    """The part of a picture of that size that crop() keeps, in the picture's own pixels."""
    resized = _resized(width, height)
    x_scale, y_scale = width / resized[0], height / resized[1]
    left, top, right, bottom = _centre(*resized)
    return left * x_scale, top * y_scale, right * x_scale, bottom * y_scale


def _resized(width: int, height: int) -> tuple[int, int]:
    short = min(width, height)
    # int() truncates, as torchvision does.
    return int(RESIZE * width / short), int(RESIZE * height / short)


def _centre(width: int, height: int) -> tuple[int, int, int, int]:
    left, top = round((width - CROP) / 2), round((height - CROP) / 2)
    return left, top, left + CROP, top + CROP


def normalize(crops: Sequence[Image.Image]) -> torch.Tensor:
    """N crops to one batch: float32, (N, 3, 224, 224), channels last, about -2.2 to 2.7."""
    pixels = torch.frombuffer(bytearray(b"".join(crop.tobytes() for crop in crops)), dtype=torch.uint8)
    # The order of operations is torchvision's; another one rounds differently. In rows of pixels they are vectorised.
    rows = pixels.view(-1, CROP * 3).to(torch.float32).div_(255)
    mean, std = (torch.tensor(values).repeat(CROP) for values in (MEAN, STD))
    return rows.sub_(mean).div_(std).view(len(crops), CROP, CROP, 3).permute(0, 3, 1, 2)


def to_batch(images: Sequence[Image.Image | torch.Tensor]) -> torch.Tensor:
    """N crops, or preprocessed images of float32 (3, 224, 224), to one batch: float32, (N, 3, 224, 224)."""
    crops = [image for image in images if isinstance(image, Image.Image)]
    if len(crops) == len(images):
        return normalize(crops)
    return torch.stack([normalize([image])[0] if isinstance(image, Image.Image) else image for image in images])
