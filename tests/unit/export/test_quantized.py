"""The quantised network's steps are what they are described to be."""

import torch
from torch import nn
from torch.nn import functional

from export.quantized import IMAGE_STEP, IMAGE_ZERO, Weights, byte_bounds, shrink, to_bytes
from export.ranges import Range
from tests.precisions import needs


def test_bounds_are_where_the_batch_norm_is_zero() -> None:
    norm, channels = nn.BatchNorm2d(4, eps=0).eval(), torch.ones(4, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 1, -1, 1]))
        norm.bias.copy_(torch.tensor([-20.0, 30, 40, -900]))
    # Bytes stand for -10 + byte / 2.
    bounds = byte_bounds(norm, Range(-10 * channels, channels / 2))
    bytes_ = torch.tensor([[0] * 4, [255] * 4], dtype=torch.uint8)
    assert bounds(bytes_).tolist() == [[60, 0, 0, 255], [255, 255, 100, 255]]


@needs("int8")
def test_a_transition_averages_bytes_and_uses_the_whole_range() -> None:
    rows = torch.randint(100, 200, (2 * 12 * 12, 16), dtype=torch.uint8)
    mean = Weights(torch.ones(16, 1, 2, 2, dtype=torch.int8), torch.full((16,), 0.25 * 2.5))
    mean.bias.fill_(-100 * 2.5)
    maps = rows.float().view(2, 12, 12, 16).permute(0, 3, 1, 2)
    expected = (functional.avg_pool2d(maps, 2).permute(0, 2, 3, 1).reshape(-1, 16) - 100) * 2.5
    assert (shrink(mean, rows, 12, 0).float() - expected).abs().max() <= 0.5


def test_images_become_bytes_as_fine_as_their_pixels() -> None:
    pixels = torch.randint(0, 256, (1, 3, 16, 16))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalized = (pixels / 255 - mean) / std
    back = (to_bytes(normalized).float() - IMAGE_ZERO) * IMAGE_STEP
    assert (back - normalized).abs().max() <= IMAGE_STEP * 0.75


def test_what_is_far_beyond_an_image_is_clipped() -> None:
    bytes_ = to_bytes(torch.tensor([-1e6, 1e6]).view(1, 1, 1, 2))
    assert bytes_.flatten().tolist() == [0, 255]
