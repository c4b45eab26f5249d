"""Transform: convert crops to the normalized float32 tensor that the network expects.

Together with `cropping`, this is torchvision's ImageNet transform as in the tutorials: Resize(255), CenterCrop(224),
ToTensor(), Normalize(mean, std). The result is identical bit by bit, except for rounding if one side is more than 64
times the other. torchvision is not imported, because that costs a worker six seconds and 170 MB.
"""

from collections.abc import Sequence

import torch

from handler.cropping import CROP

MEAN = (0.485, 0.456, 0.406)  # red, green and blue in 0..1, from torchvision's ImageNet presets
STD = (0.229, 0.224, 0.225)


def normalize(crops: Sequence[bytes | bytearray]) -> torch.Tensor:
    """Convert N crops, uint8 RGB of 224 × 224 pixels, to a batch.

    Returns float32, (N, 3, 224, 224), channels last, with values from -2.2 to 2.7.
    """
    pixels = torch.frombuffer(bytearray().join(crops), dtype=torch.uint8)
    # Another order of operations than torchvision's rounds differently. Working on rows of pixels vectorizes them.
    rows = pixels.view(-1, CROP * 3).to(torch.float32).div_(255)
    mean, std = (torch.tensor(values).repeat(CROP) for values in (MEAN, STD))
    return rows.sub_(mean).div_(std).view(len(crops), CROP, CROP, 3).permute(0, 3, 1, 2)
