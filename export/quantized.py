"""Quantized: the fused network in 8-bit integers, by static quantisation with calibration images.

Activations are uint8, weights int8 with one scale per output (Krishnamoorthi 2018, arXiv 1806.08342). Differences:

- Each channel of a dense block's buffer has its own range, low + step · q. This is free, because the steps are folded
  into the weights of the layers that write and read the channel. Concatenation only copies bytes.
- A batch-norm with its ReLU is one comparison of bytes, as in the fused network, with the bound rounded to a byte.
- The mean of a transition, a sum of four bytes, becomes a byte with a range of its own.
- The head stays in fp32, because it takes only a hundredth of the time.

export/quantizer.py chooses ranges, integers and biases.
"""

from typing import cast

import torch
from torch import Tensor, nn

from export import kernels
from export.fused import (
    BOTTLENECK,
    SIDES,
    WIDTHS,
    Bounds,
    grow,
    scale_and_shift,
    to_feature_maps,
    to_rows,
)
from export.ranges import MAX_BYTE, Range
from handler.transform import MEAN, STD

UINT8, FLOAT32 = 0, 6  # torch's numbers of the dtypes, as required by TorchScript

# The range of a normalized image, and its quantisation steps.
_DARKEST = min(-mean / std for mean, std in zip(MEAN, STD, strict=True))
_BRIGHTEST = max((1 - mean) / std for mean, std in zip(MEAN, STD, strict=True))
IMAGE_STEP = (_BRIGHTEST - _DARKEST) / MAX_BYTE
IMAGE_ZERO = round(-_DARKEST / IMAGE_STEP)
_ZERO_AND_A_HALF = torch.tensor(IMAGE_ZERO + 0.5)


class Weights(nn.Module):
    """int8 weights of a linear map with a scale for each output, and its bias, which is zero at first."""

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    bias: Tensor

    def __init__(self, integers: Tensor, scales: Tensor) -> None:
        """integers: int8, (O, I) or (O, I, K, K), for inputs with steps of 1. scales: (O,)."""
        super().__init__()
        layout = torch.channels_last if integers.ndim == 4 else torch.contiguous_format
        self.register_buffer("weight", integers.contiguous(memory_format=layout))
        self.register_buffer("scales", scales.float())
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int32))
        self.register_buffer("bias", torch.zeros(len(scales)))

    def multiply(self, rows: Tensor, dtype: int, after: str) -> Tensor:
        """Multiply: uint8 (R, I) → (R, O) in a given dtype."""
        return kernels.quantized_linear(rows, self.weight, self.scales, self.zeros, self.bias, dtype, after)

    def convolve(self, maps: Tensor, dtype: int, *, zero: int = 0, stride: int, padding: int, after: str) -> Tensor:
        """Convolve uint8 (N, I, S, S), channels last → (N, O, S', S') in a given dtype.

        If there is one input for each weight, each channel is convolved on its own.
        """
        groups = maps.shape[1] // self.weight.shape[1]
        return kernels.quantized_convolution(
            maps, 1.0, zero, self.weight, self.scales, self.zeros, self.bias, stride, padding, groups, dtype, after
        )


def byte_bounds(norm: nn.Module, source: Range) -> Bounds:
    """Return what remains of a batch-norm and its ReLU for bytes of a range."""
    scale, shift = scale_and_shift(norm)
    gain, offset = scale * source.step, scale * source.low + shift  # for one byte
    bound = torch.nan_to_num(-offset / gain).round().clamp(0, MAX_BYTE)
    return Bounds(bound.to(torch.uint8), gain >= 0, 0, MAX_BYTE)


class Pointwise(nn.Module):
    """Bounds, 1×1 convolution, and an optional ReLU after it, over rows of a buffer."""

    def __init__(self, bounds: Bounds, weights: Weights, after: str) -> None:
        super().__init__()
        self.bounds = bounds
        self.weights = weights
        self.after = after

    def forward(self, rows: Tensor) -> Tensor:
        """Apply the bounds and multiply: uint8 (R, I) → uint8 (R, O)."""
        return self.weights.multiply(self.bounds(rows), UINT8, self.after)


class Transition(nn.Module):
    """Bounds, 2×2 mean, 1×1 convolution.

    torch cannot average bytes, so a convolution of each channel does.
    """

    def __init__(self, bounds: Bounds, mean: Weights, weights: Weights) -> None:
        """mean: adds four bytes of a channel, and scales and shifts the sum to a byte."""
        super().__init__()
        self.bounds = bounds
        self.mean = mean
        self.weights = weights

    def forward(self, rows: Tensor, side: int) -> Tensor:
        """Compute the next block's first channels: uint8 (N · side², C) → uint8 (N, O, side / 2, side / 2)."""
        shrunk = shrink(self.mean, self.bounds(rows), side, UINT8)
        return to_feature_maps(self.weights.multiply(shrunk, UINT8, "none"), side // 2, len(self.weights.weight))


def shrink(mean: Weights, bounded: Tensor, side: int, dtype: int) -> Tensor:
    """Average: uint8 (N · side², C) → (N · side²/4, C) in a given dtype."""
    channels = len(mean.weight)
    maps = to_feature_maps(bounded, side, channels)
    return to_rows(mean.convolve(maps, dtype, stride=2, padding=0, after="none"), channels)


class Layer(nn.Module):
    """One layer of a dense block: computes 32 more channels from all previous ones."""

    def __init__(self, reduce: Pointwise, weights: Weights) -> None:
        super().__init__()
        self.reduce = reduce
        self.weights = weights

    def forward(self, rows: Tensor, side: int) -> Tensor:
        """Compute the layer's channels: uint8 (N · side², I) → uint8 (N, 32, side, side)."""
        reduced = to_feature_maps(self.reduce(rows), side, BOTTLENECK)
        return self.weights.convolve(reduced, UINT8, stride=1, padding=1, after="none")


class Features(nn.Module):
    """The features: float32 (N, 3, 224, 224), normalized → float32 activations (N, 49, 1024), for any N."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        stem: Weights,
        blocks: list[list[Layer]],
        transitions: list[Transition],
        last: tuple[Tensor, Tensor],
    ) -> None:
        """last: scale and shift that convert the last block's bytes to the input of its ReLU."""
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        self.transitions = nn.ModuleList(transitions)
        for name, tensor in zip(("scale", "shift"), last, strict=True):
            self.register_buffer(name, tensor.float())

    def forward(self, images: Tensor) -> Tensor:
        """Compute the activations."""
        x = begin(self.stem, images)
        for block, transition, side, width in zip(self.blocks, [*self.transitions, None], SIDES, WIDTHS, strict=True):
            rows = grow(x, cast(nn.ModuleList, block), side, width)
            if transition is not None:
                x = transition(rows, side)
        return torch.addcmul(self.shift, rows.float(), self.scale).relu_().view(-1, side * side, width)


def begin(stem: Weights, images: Tensor) -> Tensor:
    """Run the first convolution and its pooling: normalized (N, 3, 224, 224) → uint8 (N, 64, 56, 56)."""
    return pool(convolve_images(stem, to_bytes(images), UINT8, "relu"))


def convolve_images(stem: Weights, images: Tensor, dtype: int, after: str) -> Tensor:
    """Run the first convolution: uint8 (N, 3, 224, 224) → (N, 64, 112, 112) in a given dtype."""
    return stem.convolve(images, dtype, zero=IMAGE_ZERO, stride=2, padding=3, after=after)


def pool(maps: Tensor) -> Tensor:
    """Run the pooling after it: uint8 (N, 64, 112, 112) → (N, 64, 56, 56)."""
    pooled: Tensor = torch.ops.quantized.max_pool2d(maps, [3, 3], [2, 2], [1, 1], [1, 1], False)
    return pooled


def to_bytes(images: Tensor) -> Tensor:
    """Quantise a normalized batch to uint8, channels last, about as finely as the original pixels."""
    batch = images.contiguous(memory_format=torch.channels_last)
    # Adding a half and truncating rounds in the fewest passes.
    return torch.add(_ZERO_AND_A_HALF, batch, alpha=1 / IMAGE_STEP).clamp_(0, MAX_BYTE).to(torch.uint8)
