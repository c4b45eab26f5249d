"""Transform: from crops to the float32 tensor that the network was trained on.

With `cropping` before it, this is torchvision's ImageNet transform as the tutorials use it: Resize(255),
CenterCrop(224), ToTensor(), Normalize(mean, std). The result equals theirs to the bit (up to a rounding where
a side is more than 64 times the other); torchvision itself is not imported, since that
costs a worker six seconds and 170 MB.
"""

from collections.abc import Sequence

import torch

from handler.cropping import CROP

MEAN = (0.485, 0.456, 0.406)  # red, green, blue, of values in 0..1: torchvision's ImageNet presets
STD = (0.229, 0.224, 0.225)


def normalize(crops: Sequence[bytes | bytearray]) -> torch.Tensor:
    """N crops, 224 × 224 pixels of 3 bytes, to one batch: float32, (N, 3, 224, 224), channels last, -2.2 to 2.7."""
    pixels = torch.frombuffer(bytearray().join(crops), dtype=torch.uint8)
    # The order of operations is torchvision's; another one rounds differently. In rows of pixels they are vectorised.
    rows = pixels.view(-1, CROP * 3).to(torch.float32).div_(255)
    mean, std = (torch.tensor(values).repeat(CROP) for values in (MEAN, STD))
    return rows.sub_(mean).div_(std).view(len(crops), CROP, CROP, 3).permute(0, 3, 1, 2)
