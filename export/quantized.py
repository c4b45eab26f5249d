"""Quantized: the fused network in 8-bit integers, by static quantisation with calibration images.

Activations are uint8, weights int8 with one scale per output (Krishnamoorthi 2018, arXiv 1806.08342). Differences:

- Each channel of a dense block's buffer has its own range, low + step · q. This is free, because the steps are folded
  into the weights of the layers that write and read the channel. Concatenation only copies bytes.
- A batch-norm with its ReLU is one comparison of bytes, as in the fused network, with the bound rounded to a byte.
- Biases are set last, so that every channel has the same mean as in the fp32 network on the calibration images, with
  all previous layers quantised (bias correction: Nagel et al. 2019, arXiv 1906.04721). This compensates shifts due to
  rounded weights and bounds; otherwise the errors of 120 layers add up.
- The head stays in fp32, because it takes only a hundredth of the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export import kernels
from export.fused import (
    BLOCKS,
    BOTTLENECK,
    GROWTH,
    SIDES,
    STEM,
    WIDTHS,
    Bounds,
    grow,
    scale_and_shift,
    to_feature_maps,
    to_rows,
)
from handler.transform import MEAN, STD

MAX_ACTIVATION = 255  # of uint8
_MAX_WEIGHT = 127
_CHUNK = 16  # batch size of calibration images in the fp32 network
_CLIPPED = 1e-4  # share of a channel's values beyond each end of its range; outliers would coarsen the others
_MIN_STEP = 1e-9  # for constant channels
UINT8, FLOAT32 = 0, 6  # torch's numbers of the dtypes, as required by TorchScript

# The range of a normalized image, and its quantisation steps.
_DARKEST = min(-mean / std for mean, std in zip(MEAN, STD, strict=True))
_BRIGHTEST = max((1 - mean) / std for mean, std in zip(MEAN, STD, strict=True))
IMAGE_STEP = (_BRIGHTEST - _DARKEST) / MAX_ACTIVATION
IMAGE_ZERO = round(-_DARKEST / IMAGE_STEP)
_ZERO_AND_A_HALF = torch.tensor(IMAGE_ZERO + 0.5)


@dataclass(frozen=True)
class Range:
    """The values of some channels' bytes: low + step · q, both float64 (C,)."""

    low: Tensor
    step: Tensor

    @classmethod
    def of(cls, values: Tensor, *, positive: bool = False) -> "Range":
        """Return the range of values (N, C, S, S) without outliers; it starts at 0 if the values are positive."""
        channels = values.transpose(0, 1).flatten(1)
        count = channels.shape[1]
        rank = max(1, int(count * _CLIPPED))
        low, high = (channels.kthvalue(k, dim=1).values.double() for k in (rank, count - rank + 1))
        low = torch.zeros_like(high) if positive else low
        return cls(low, ((high - low) / MAX_ACTIVATION).clamp_min(_MIN_STEP))

    def joined(self, other: "Range") -> "Range":
        """Return the range of these channels followed by the others."""
        return Range(torch.cat([self.low, other.low]), torch.cat([self.step, other.step]))


class Weights(nn.Module):
    """int8 weights of a linear map with a scale for each output, and its bias."""

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor) -> None:
        """weight: float64, (O, I) or (O, I, K, K), for inputs and outputs with steps of 1."""
        super().__init__()
        scales = (weight.flatten(1).abs().amax(1) / _MAX_WEIGHT).clamp_min(_MIN_STEP)
        rounded = torch.round(weight / scales.view(-1, *[1] * (weight.ndim - 1))).to(torch.int8)
        layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        self.register_buffer("weight", rounded.contiguous(memory_format=layout))
        self.register_buffer("scales", scales.float())
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int32))
        self.register_buffer("bias", torch.zeros(len(scales)))

    def center(self, results: Callable[[int], Tensor], means: Tensor) -> None:
        """Set the bias so that the results (R, O), computed in a given dtype, have the given means (O,)."""
        self.bias.zero_()
        self.bias.copy_(means - results(FLOAT32).double().mean(0))

    def multiply(self, rows: Tensor, dtype: int, after: str) -> Tensor:
        """Multiply: uint8 (R, I) → (R, O)."""
        return kernels.quantized_linear(rows, self.weight, self.scales, self.zeros, self.bias, dtype, after)

    def convolve(
        self, maps: Tensor, dtype: int, *, step: float = 1.0, zero: int = 0, stride: int, after: str
    ) -> Tensor:
        """Convolve uint8 (N, I, S, S), channels last → (N, O, S', S'), with padding that keeps the size at stride 1."""
        padding = self.weight.shape[2] // 2
        return kernels.quantized_convolution(
            maps, step, zero, self.weight, self.scales, self.zeros, self.bias, stride, padding, 1, dtype, after
        )


class Pointwise(nn.Module):
    """Batch-norm, ReLU, 1×1 convolution, and an optional batch-norm and ReLU after it, over rows of a buffer."""

    def __init__(self, norm: nn.Module, weight: Tensor, after: nn.Module | None, source: Range, target: Range) -> None:
        """weight: (O, I, 1, 1). source, target: ranges of the input and output bytes."""
        super().__init__()
        scale, shift = scale_and_shift(norm)
        gain, offset = scale * source.step, scale * source.low + shift  # for one byte
        bound = torch.nan_to_num(-offset / gain).round().clamp(0, MAX_ACTIVATION)
        self.bounds = Bounds(bound.to(torch.uint8), gain >= 0, 0, MAX_ACTIVATION)
        matrix = weight.flatten(1).double() * gain
        if after is not None:
            matrix = matrix * scale_and_shift(after)[0][:, None]
        self.weights = Weights(matrix / target.step[:, None])
        self.after = "none" if after is None else "relu"

    def forward(self, rows: Tensor) -> Tensor:
        """Apply the bounds and multiply: uint8 (R, I) → uint8 (R, O)."""
        return self.multiply(self.bounds(rows))

    def multiply(self, bounded: Tensor) -> Tensor:
        """Multiply rows that are within their bounds."""
        return self.weights.multiply(bounded, UINT8, self.after)


class Transition(Pointwise):
    """Batch-norm, ReLU, 2×2 mean, 1×1 convolution.

    torch cannot average bytes, so a depthwise convolution does.
    """

    ones: Tensor
    quarters: Tensor
    zeros: Tensor
    bias: Tensor

    def __init__(self, norm: nn.Module, weight: Tensor, source: Range, target: Range) -> None:
        """See Pointwise."""
        super().__init__(norm, weight, None, source, target)
        channels = weight.shape[1]
        ones = torch.ones(channels, 1, 2, 2, dtype=torch.int8)
        self.register_buffer("ones", ones.contiguous(memory_format=torch.channels_last))
        self.register_buffer("quarters", torch.full((channels,), 0.25))
        self.register_buffer("zeros", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("bias", torch.zeros(channels))

    def shrink(self, rows: Tensor, side: int) -> Tensor:
        """Apply the bounds and average: uint8 (N · S², C) → uint8 (N · S²/4, C)."""
        channels = len(self.ones)
        bounded = to_feature_maps(self.bounds(rows), side, channels)
        averaged = kernels.quantized_convolution(
            bounded, 1.0, 0, self.ones, self.quarters, self.zeros, self.bias, 2, 0, channels, UINT8, "none"
        )
        return to_rows(averaged, channels)


class Layer(nn.Module):
    """One layer of a dense block: computes 32 more channels from all previous ones."""

    def __init__(self, reduce: Pointwise, weight: Tensor, source: Range, target: Range) -> None:
        super().__init__()
        self.reduce = reduce
        self.weights = Weights(weight.double() * source.step.view(1, -1, 1, 1) / target.step.view(-1, 1, 1, 1))

    def forward(self, rows: Tensor, side: int) -> Tensor:
        """Compute the layer's channels: uint8 (N · side², I) → uint8 (N, 32, side, side)."""
        return self.convolve(to_feature_maps(self.reduce(rows), side, BOTTLENECK), UINT8)

    def convolve(self, reduced: Tensor, dtype: int) -> Tensor:
        """Compute only the 3×3 convolution."""
        return self.weights.convolve(reduced, dtype, stride=1, after="none")


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
                shrunk = transition.shrink(rows, side)
                x = to_feature_maps(transition.multiply(shrunk), side // 2, width // 2)
        return torch.addcmul(self.shift, rows.float(), self.scale).relu_().view(-1, side * side, width)


def begin(stem: Weights, images: Tensor) -> Tensor:
    """Run the first convolution and its pooling: normalized (N, 3, 224, 224) → uint8 (N, 64, 56, 56)."""
    maps = stem.convolve(to_bytes(images), UINT8, step=IMAGE_STEP, zero=IMAGE_ZERO, stride=2, after="relu")
    pooled: Tensor = torch.ops.quantized.max_pool2d(maps, [3, 3], [2, 2], [1, 1], [1, 1], False)
    return pooled


def to_bytes(images: Tensor) -> Tensor:
    """Quantise a normalized batch to uint8, channels last, about as finely as the original pixels."""
    batch = images.contiguous(memory_format=torch.channels_last)
    # Adding a half and truncating rounds in the fewest passes.
    return torch.add(_ZERO_AND_A_HALF, batch, alpha=1 / IMAGE_STEP).clamp_(0, MAX_ACTIVATION).to(torch.uint8)


def quantize(network: nn.Module, images: Tensor, step_done: Callable[[], None] = lambda: None) -> Features:
    """Quantise torchvision's DenseNet-121, in eval mode, with images of float32 (N, 3, 224, 224), normalized.

    step_done: called after each of STEPS steps.
    """
    with torch.inference_mode(False), torch.no_grad():
        return _Calibration(network, images, step_done).run()


STEPS = sum(BLOCKS) + len(BLOCKS)


class _Calibration:
    """Run both networks layer by layer: x in fp32 (N, C, S, S), and rows, its quantised equivalent."""

    def __init__(self, network: nn.Module, images: Tensor, step_done: Callable[[], None]) -> None:
        self.network = network
        self.images = images
        self.step_done = step_done

    def run(self) -> Features:
        stem, x, maps, ranges = self._stem()
        blocks, transitions = [], []
        for block in range(1, len(BLOCKS) + 1):
            made, x, rows, ranges = self._block(block, x, maps, ranges)
            blocks.append(made)
            if block < len(BLOCKS):
                transition, x, maps, ranges = self._transition(block, x, rows, ranges)
                transitions.append(transition)
        scale, shift = scale_and_shift(self.network.get_submodule("features.norm5"))
        return Features(stem, blocks, transitions, (scale * ranges.step, scale * ranges.low + shift)).eval()

    def _through(self, x: Tensor, *modules: str) -> Tensor:
        """Run x through some of the fp32 network's modules, by name."""
        results = []
        for chunk in x.split(_CHUNK):
            for name in modules:
                chunk = self.network.get_submodule(f"features.{name}")(chunk)
            results.append(chunk)
        return torch.cat(results)

    def _stem(self) -> tuple[Weights, Tensor, Tensor, Range]:
        before = self._through(self.images, "conv0", "norm0")
        x = functional.max_pool2d(before.relu(), 3, 2, 1)
        ranges = Range.of(x, positive=True)
        scale, _ = scale_and_shift(self.network.get_submodule("features.norm0"))
        weight = self.network.get_parameter("features.conv0.weight").double() * scale.view(-1, 1, 1, 1)
        stem = Weights(weight / ranges.step.view(-1, 1, 1, 1))
        pixels = to_bytes(self.images)

        def results(dtype: int) -> Tensor:
            maps = stem.convolve(pixels, dtype, step=IMAGE_STEP, zero=IMAGE_ZERO, stride=2, after="none")
            return to_rows(maps, STEM)

        stem.center(results, _mean(before) / ranges.step)
        self.step_done()
        return stem, x, begin(stem, self.images), ranges

    def _block(self, block: int, x: Tensor, maps: Tensor, ranges: Range) -> tuple[list[Layer], Tensor, Tensor, Range]:
        count, channels, side, width = x.shape[0], x.shape[1], SIDES[block - 1], WIDTHS[block - 1]
        features, rows = x.new_empty((count, width, side, side)), maps.new_empty((count * side**2, width))
        features[:, :channels], rows[:, :channels] = x, to_rows(maps, channels)
        made = []
        for number in range(1, BLOCKS[block - 1] + 1):
            layer, added, added_rows, added_ranges = self._layer(
                f"denseblock{block}.denselayer{number}", features[:, :channels], rows[:, :channels], ranges
            )
            made.append(layer)
            features[:, channels : channels + GROWTH], rows[:, channels : channels + GROWTH] = added, added_rows
            ranges = ranges.joined(added_ranges)
            channels += GROWTH
            self.step_done()
        return made, features, rows, ranges

    def _layer(self, name: str, x: Tensor, rows: Tensor, ranges: Range) -> tuple[Layer, Tensor, Tensor, Range]:
        """Quantise a layer; return it with its channels in fp32, in bytes, and their range."""
        before = self._through(x, *(f"{name}.{part}" for part in ("norm1", "relu1", "conv1", "norm2")))
        reduced = before.relu()
        added = self._through(reduced, f"{name}.conv2")
        narrow, wide = Range.of(reduced, positive=True), Range.of(added)
        part = self.network.get_submodule(f"features.{name}")
        weights = (part.get_parameter(f"conv{i}.weight") for i in (1, 2))
        first = Pointwise(part.get_submodule("norm1"), next(weights), part.get_submodule("norm2"), ranges, narrow)
        layer = Layer(first, next(weights), narrow, wide)
        self._center(first, first.bounds(rows), before, narrow)
        small = to_feature_maps(first(rows), x.shape[2], BOTTLENECK)
        layer.weights.center(
            lambda dtype: to_rows(layer.convolve(small, dtype), GROWTH), (_mean(added) - wide.low) / wide.step
        )
        return layer, added, to_rows(layer.convolve(small, UINT8), GROWTH), wide

    def _transition(
        self, block: int, x: Tensor, rows: Tensor, ranges: Range
    ) -> tuple[Transition, Tensor, Tensor, Range]:
        name = f"transition{block}"
        side, width = SIDES[block - 1], WIDTHS[block - 1]
        x = self._through(x, *(f"{name}.{part}" for part in ("norm", "relu", "conv", "pool")))
        target = Range.of(x)
        part = self.network.get_submodule(f"features.{name}")
        transition = Transition(part.get_submodule("norm"), part.get_parameter("conv.weight"), ranges, target)
        shrunk = transition.shrink(rows, side)
        self._center(transition, shrunk, x, target)
        self.step_done()
        return transition, x, to_feature_maps(transition.multiply(shrunk), side // 2, width // 2), target

    def _center(self, pointwise: Pointwise, bounded: Tensor, expected: Tensor, target: Range) -> None:
        pointwise.weights.center(
            lambda dtype: pointwise.weights.multiply(bounded, dtype, "none"),
            (_mean(expected) - target.low) / target.step,
        )


def _mean(values: Tensor) -> Tensor:
    """Return the mean of each channel: (N, C, S, S) → float64 (C,)."""
    return values.mean((0, 2, 3), dtype=torch.float64)
