"""Quantized: the fused network in 8-bit whole numbers, by static quantisation with calibration images.

Activations are uint8, weights int8 with a scale for each output (Krishnamoorthi 2018, arXiv 1806.08342). What differs:

- A channel of a dense block's buffer has a range of its own, low + step · q. That costs nothing: what writes it divides
  by the step, and what reads it multiplies, in weights that are there anyway. So concatenating is copying bytes.
- A batch-norm with its ReLU is one comparison of bytes, as in the fused network, with the bound rounded to a byte.
- Each bias is set last, so that the mean of every channel is that of the fp32 network on the calibration images, with
  everything before it quantised already (bias correction: Nagel et al. 2019, arXiv 1906.04721). It takes up what
  rounded weights and bounds would shift; without it the errors of 120 layers add up.
- The head stays in fp32: it is a hundredth of the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export import kernels
from export.fused import BLOCKS, GROWTH, Bounds, grow, scale_and_shift, to_pictures, to_rows
from handler.transform import MEAN, STD

MOST = 255  # of an activation
_MOST_WEIGHT = 127
_CHUNK = 16  # images of calibration that are in the fp32 network at once
_CLIPPED = 1e-4  # share of a channel's values beyond each end of its range; rare ones would coarsen all others
_LEAST_STEP = 1e-9  # of channels that never change
UINT8, FLOAT32 = 0, 6  # torch's numbers of the dtypes, as TorchScript wants them

# The range of a normalized picture, and the steps that it is cut into.
_DARKEST = min(-mean / std for mean, std in zip(MEAN, STD, strict=True))
_BRIGHTEST = max((1 - mean) / std for mean, std in zip(MEAN, STD, strict=True))
PICTURE_STEP = (_BRIGHTEST - _DARKEST) / MOST
PICTURE_ZERO = round(-_DARKEST / PICTURE_STEP)


@dataclass(frozen=True)
class Range:
    """What the bytes of some channels stand for: low + step · q, both float64 (C,)."""

    low: Tensor
    step: Tensor

    @classmethod
    def of(cls, values: Tensor, *, positive: bool = False) -> "Range":
        """Of the values (N, C, S, S) of channels, but for the rarest; from 0 on if they are positive."""
        channels = values.transpose(0, 1).flatten(1)
        count = channels.shape[1]
        rank = max(1, int(count * _CLIPPED))
        low, high = (channels.kthvalue(k, dim=1).values.double() for k in (rank, count - rank + 1))
        low = torch.zeros_like(high) if positive else low
        return cls(low, ((high - low) / MOST).clamp_min(_LEAST_STEP))

    def joined(self, other: "Range") -> "Range":
        """That of these channels and then the others."""
        return Range(torch.cat([self.low, other.low]), torch.cat([self.step, other.step]))


class Weights(nn.Module):
    """int8 weights of a linear map with a scale for each output, and its bias."""

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor) -> None:
        """weight: float64, (O, I) or (O, I, K, K), for inputs and outputs that count in steps of 1."""
        super().__init__()
        scales = (weight.flatten(1).abs().amax(1) / _MOST_WEIGHT).clamp_min(_LEAST_STEP)
        rounded = torch.round(weight / scales.view(-1, *[1] * (weight.ndim - 1))).to(torch.int8)
        layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        self.register_buffer("weight", rounded.contiguous(memory_format=layout))
        self.register_buffer("scales", scales.float())
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int32))
        self.register_buffer("bias", torch.zeros(len(scales)))

    def center(self, results: Callable[[int], Tensor], wanted: Tensor) -> None:
        """Sets the bias, so that the means of the results (R, O), asked for in a dtype, are those wanted, (O,)."""
        self.bias.zero_()
        self.bias.copy_(wanted - results(FLOAT32).double().mean(0))

    def multiply(self, rows: Tensor, dtype: int, after: str) -> Tensor:
        """uint8 (R, I) → (R, O)."""
        return kernels.quantized_linear(rows, self.weight, self.scales, self.zeros, self.bias, dtype, after)

    def convolve(
        self, pictures: Tensor, dtype: int, *, step: float = 1.0, zero: int = 0, stride: int, after: str
    ) -> Tensor:
        """uint8 (N, I, S, S), channels last → (N, O, S', S'), with as much padding as keeps the size at stride 1."""
        padding = self.weight.shape[2] // 2
        return kernels.quantized_convolution(
            pictures, step, zero, self.weight, self.scales, self.zeros, self.bias, stride, padding, dtype, after
        )


class Pointwise(nn.Module):
    """Batch-norm, ReLU, 1×1 convolution, and the batch-norm and ReLU that may follow it, over rows of a buffer."""

    def __init__(self, norm: nn.Module, weight: Tensor, after: nn.Module | None, source: Range, target: Range) -> None:
        """weight: (O, I, 1, 1); source, target: what the bytes of both sides stand for."""
        super().__init__()
        scale, shift = scale_and_shift(norm)
        gain, offset = scale * source.step, scale * source.low + shift  # of a byte
        bound = torch.nan_to_num(-offset / gain).round().clamp(0, MOST)
        self.bounds = Bounds(bound.to(torch.uint8), gain >= 0, 0, MOST)
        matrix = weight.flatten(1).double() * gain
        if after is not None:
            matrix = matrix * scale_and_shift(after)[0][:, None]
        self.weights = Weights(matrix / target.step[:, None])
        self.after = "none" if after is None else "relu"

    def forward(self, rows: Tensor) -> Tensor:
        """uint8 (R, I) → uint8 (R, O)."""
        return self.multiply(self.bounds(rows))

    def multiply(self, bounded: Tensor) -> Tensor:
        """The product alone, of rows within their bounds."""
        return self.weights.multiply(bounded, UINT8, self.after)


class Layer(nn.Module):
    """One layer of a dense block: from all features so far to 32 more."""

    def __init__(self, reduce: Pointwise, weight: Tensor, source: Range, target: Range) -> None:
        super().__init__()
        self.reduce = reduce
        self.weights = Weights(weight.double() * source.step.view(1, -1, 1, 1) / target.step.view(-1, 1, 1, 1))

    def forward(self, rows: Tensor, images: int, side: int) -> Tensor:
        """uint8 (images · side², I) → uint8 (images · side², 32)."""
        return self.spread(to_pictures(self.reduce(rows), images, side), UINT8)

    def spread(self, reduced: Tensor, dtype: int) -> Tensor:
        """The 3×3 convolution alone, as rows."""
        return to_rows(self.weights.convolve(reduced, dtype, stride=1, after="none"))


class Trunk(nn.Module):
    """All but the head: float32 (N, 3, 224, 224), normalized → float32 activations (N, 49, 1024), for any N."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        stem: Weights,
        blocks: list[list[Layer]],
        transitions: list[Pointwise],
        last: tuple[Tensor, Tensor],
    ) -> None:
        """last: scale and shift that turn the last block's bytes into what its ReLU is applied to."""
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        self.transitions = nn.ModuleList(transitions)
        for name, tensor in zip(("scale", "shift"), last, strict=True):
            self.register_buffer(name, tensor.float())

    def forward(self, images: Tensor) -> Tensor:
        """As the class says."""
        x = begin(self.stem, images)
        for block, transition in zip(self.blocks, [*self.transitions, None], strict=True):
            rows = grow(x, cast(nn.ModuleList, block))
            count, side = x.shape[0], x.shape[2]
            if transition is not None:
                shrunk = shrink(cast(Pointwise, transition), rows, count, side)
                x = to_pictures(cast(Pointwise, transition).multiply(shrunk), count, side // 2)
        return torch.addcmul(self.shift, rows.float(), self.scale).relu_().view(count, side * side, -1)


def begin(stem: Weights, images: Tensor) -> Tensor:
    """Normalized pictures, (N, 3, 224, 224), through the first convolution and its pooling → uint8 (N, 64, 56, 56)."""
    return pool(stem.convolve(to_bytes(images), UINT8, step=PICTURE_STEP, zero=PICTURE_ZERO, stride=2, after="relu"))


def to_bytes(images: Tensor) -> Tensor:
    """Normalized pictures → uint8, channels last, about as fine as the pixels were."""
    steps = torch.round(images * (1 / PICTURE_STEP) + PICTURE_ZERO).clamp(0, MOST)
    return steps.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def pool(pictures: Tensor) -> Tensor:
    """3×3 maximum with stride 2 of uint8 (N, C, S, S), channels last, S even; torch has none for whole numbers."""
    x = pictures.permute(0, 2, 3, 1)
    odd = x[:, 1::2]
    x = torch.maximum(x[:, 0::2], odd)
    x[:, 1:] = torch.maximum(x[:, 1:], odd[:, :-1])
    odd = x[:, :, 1::2]
    x = torch.maximum(x[:, :, 0::2], odd)
    x[:, :, 1:] = torch.maximum(x[:, :, 1:], odd[:, :, :-1])
    return x.permute(0, 3, 1, 2)


def shrink(transition: Pointwise, rows: Tensor, count: int, side: int) -> Tensor:
    """A transition's bounds and its 2×2 mean: uint8 (N · S², C) → uint8 (N · S²/4, C)."""
    bounded = to_pictures(transition.bounds(rows), count, side)
    return to_rows(torch.round(functional.avg_pool2d(bounded.float(), 2)).to(torch.uint8))


def quantize(network: nn.Module, images: Tensor, step_done: Callable[[], None] = lambda: None) -> Trunk:
    """Quantises torchvision's DenseNet-121, in eval mode, with float32 (N, 3, 224, 224), normalized pictures.

    step_done: called STEPS times, as the work goes on.
    """
    with torch.inference_mode(False), torch.no_grad():
        return _Calibration(network, images, step_done).run()


STEPS = sum(BLOCKS) + len(BLOCKS)


class _Calibration:
    """Both networks, layer by layer: x, in fp32 (N, C, S, S), and rows, the same in bytes by the layers made so far."""

    def __init__(self, network: nn.Module, images: Tensor, step_done: Callable[[], None]) -> None:
        self.network = network
        self.images = images
        self.step_done = step_done

    def run(self) -> Trunk:
        stem, x, pictures, ranges = self._stem()
        blocks, transitions = [], []
        for block in range(1, len(BLOCKS) + 1):
            made, x, rows, ranges = self._block(block, x, pictures, ranges)
            blocks.append(made)
            if block < len(BLOCKS):
                transition, x, pictures, ranges = self._transition(block, x, rows, ranges)
                transitions.append(transition)
        scale, shift = scale_and_shift(self.network.get_submodule("features.norm5"))
        return Trunk(stem, blocks, transitions, (scale * ranges.step, scale * ranges.low + shift)).eval()

    def _through(self, x: Tensor, *modules: str) -> Tensor:
        """x through some of the fp32 network's modules, by name."""
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
            return to_rows(stem.convolve(pixels, dtype, step=PICTURE_STEP, zero=PICTURE_ZERO, stride=2, after="none"))

        stem.center(results, _mean(before) / ranges.step)
        self.step_done()
        return stem, x, begin(stem, self.images), ranges

    def _block(
        self, block: int, x: Tensor, pictures: Tensor, ranges: Range
    ) -> tuple[list[Layer], Tensor, Tensor, Range]:
        count, channels, side = x.shape[0], x.shape[1], x.shape[2]
        total = channels + GROWTH * BLOCKS[block - 1]
        features, rows = x.new_empty((count, total, side, side)), pictures.new_empty((count * side**2, total))
        features[:, :channels], rows[:, :channels] = x, to_rows(pictures)
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
        """A layer, and what it adds: in fp32, in bytes, and what these stand for."""
        before = self._through(x, *(f"{name}.{part}" for part in ("norm1", "relu1", "conv1", "norm2")))
        reduced = before.relu()
        added = self._through(reduced, f"{name}.conv2")
        narrow, wide = Range.of(reduced, positive=True), Range.of(added)
        part = self.network.get_submodule(f"features.{name}")
        weights = (part.get_parameter(f"conv{i}.weight") for i in (1, 2))
        first = Pointwise(part.get_submodule("norm1"), next(weights), part.get_submodule("norm2"), ranges, narrow)
        layer = Layer(first, next(weights), narrow, wide)
        self._center(first, first.bounds(rows), before, narrow)
        small = to_pictures(first(rows), x.shape[0], x.shape[2])
        layer.weights.center(lambda dtype: layer.spread(small, dtype), (_mean(added) - wide.low) / wide.step)
        return layer, added, layer.spread(small, UINT8), wide

    def _transition(
        self, block: int, x: Tensor, rows: Tensor, ranges: Range
    ) -> tuple[Pointwise, Tensor, Tensor, Range]:
        name = f"transition{block}"
        count, side = x.shape[0], x.shape[2]
        x = self._through(x, *(f"{name}.{part}" for part in ("norm", "relu", "conv", "pool")))
        target = Range.of(x)
        part = self.network.get_submodule(f"features.{name}")
        transition = Pointwise(part.get_submodule("norm"), part.get_parameter("conv.weight"), None, ranges, target)
        shrunk = shrink(transition, rows, count, side)
        self._center(transition, shrunk, x, target)
        self.step_done()
        return transition, x, to_pictures(transition.multiply(shrunk), count, side // 2), target

    def _center(self, pointwise: Pointwise, bounded: Tensor, wanted: Tensor, target: Range) -> None:
        pointwise.weights.center(
            lambda dtype: pointwise.weights.multiply(bounded, dtype, "none"), (_mean(wanted) - target.low) / target.step
        )


def _mean(values: Tensor) -> Tensor:
    """float64 (C,) of (N, C, S, S)."""
    return values.mean((0, 2, 3), dtype=torch.float64)
