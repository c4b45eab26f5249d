"""Quantizer: choose ranges, integers and biases of the quantised network, layer by layer, on calibration images.

Both networks advance together: the values of the fp32 network, computed in float64, and the bytes that stand for them.
Each layer is fitted to the outputs of the fp32 network's layer, with the bytes that the layers before have computed, so
that it corrects their errors, too.

Biases are set last, so that every channel has the same mean as in the fp32 network (bias correction: Nagel et al. 2019,
arXiv 1906.04721). This compensates shifts due to rounded weights and bounds; otherwise the errors of 120 layers add up.

Every processor chooses the same. Kernels add products of bytes exactly. Such a sum is multiplied by its scale, gets its
bias and is rounded here, in that order, because kernels differ in whether they round in between. Everything else is in
float64, whose last digits, which depend on the processor, are a billionth of what would change an integer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export import fused, kernels, layer_errors
from export.fused import (
    BLOCKS,
    BOTTLENECK,
    GROWTH,
    SIDES,
    STEM,
    WIDTHS,
    Bounds,
    scale_and_shift,
    to_feature_maps,
    to_rows,
)
from export.layer_errors import LayerError
from export.quantized import (
    FLOAT32,
    IMAGE_STEP,
    IMAGE_ZERO,
    Features,
    Layer,
    Pointwise,
    Transition,
    Weights,
    byte_bounds,
    convolve_images,
    pool,
    shrink,
    to_bytes,
)
from export.ranges import MAX_BYTE, Interval, Range
from export.rounding import Moments, round_weights

STEPS = sum(BLOCKS) + len(BLOCKS)
_REFERENCE = fused.Kind(torch.float64, torch.float64, kernels.plain_linear, kernels.plain_convolution)
_CHUNK = 8  # images that the fp32 network computes at once
# How many times as wide as the values of the calibration images a channel's range is. Other images go beyond these, and
# that a class has its most typical features cut off costs more than bytes of half the resolution.
_MARGIN = 2.0
_FINEST = 1 / MAX_BYTE  # smallest step of a mean of four bytes
_SAMPLES = 10_000  # positions of all images, at most, whose inputs and outputs a layer's weights are fitted to


@dataclass(frozen=True)
class Quantized:
    """The features of the quantised network, and the error of each of its layers in their order."""

    features: Features
    errors: list[LayerError]


def quantize(network: nn.Module, images: Tensor, step_done: Callable[[], None] = lambda: None) -> Quantized:
    """Quantise torchvision's DenseNet-121, in eval mode, with images of float32 (N, 3, 224, 224), normalized.

    step_done: called after each of STEPS steps.
    """
    with torch.inference_mode(False), torch.no_grad():
        quantizer = _Quantizer(network, images, step_done)
        return Quantized(quantizer.run(), quantizer.errors)


@dataclass(frozen=True)
class _Channels:
    """Some channels of both networks at all positions: values of the fp32 network, float64 (R, C), and their bytes."""

    values: Tensor
    bytes: Tensor
    range: Range


@dataclass(frozen=True)
class _Task:
    """What a layer has to compute.

    exact: the fp32 network's weights, float64, for inputs in bytes. outputs: its results (R, O). needed: what readers
    distinguish of these; None: what a ReLU does. margin: of their ranges.
    """

    name: str
    exact: Tensor
    outputs: Tensor
    needed: Interval | None
    margin: float = _MARGIN


class _Quantizer:
    def __init__(self, network: nn.Module, images: Tensor, step_done: Callable[[], None]) -> None:
        self.network = network
        self.images = images
        self.step_done = step_done
        self.errors: list[LayerError] = []

    def run(self) -> Features:
        stem, current = self._stem()
        blocks, transitions = [], []
        for block in range(1, len(BLOCKS) + 1):
            made, current = self._block(block, current)
            blocks.append(made)
            if block < len(BLOCKS):
                transition, current = self._transition(block, current)
                transitions.append(transition)
        scale, shift = scale_and_shift(self.network.get_submodule("features.norm5"))
        last = (scale * current.range.step, scale * current.range.low + shift)
        return Features(stem, blocks, transitions, last).eval()

    def _stem(self) -> tuple[Weights, _Channels]:
        scale, shift = scale_and_shift(self.network.get_submodule("features.norm0"))
        exact = self.network.get_parameter("features.conv0.weight").double() * scale.view(-1, 1, 1, 1)
        convolution, side = _REFERENCE.convolution, 2 * SIDES[0]
        parts = (convolution(part.double(), exact, shift, 2, 3, "none") for part in self.images.split(_CHUNK))
        outputs = torch.cat([to_rows(part, STEM) for part in parts])
        pixels = to_bytes(self.images)
        # No margin: rounding these bytes is the largest part of the error, and photos agree on their range.
        stem, range_, rows = self._fit(
            _Task("conv0", exact * IMAGE_STEP, outputs, needed=None, margin=1),
            lambda positions: patches(pixels, positions, side, 7, 2, IMAGE_ZERO),
            lambda weights: to_rows(convolve_images(weights, pixels, FLOAT32, "none"), STEM),
        )
        parts = (to_feature_maps(part, side, STEM) for part in outputs.split(_CHUNK * side**2))
        values = torch.cat([to_rows(functional.max_pool2d(part.relu(), 3, 2, 1), STEM) for part in parts])
        self.step_done()
        return stem, _Channels(values, to_rows(pool(to_feature_maps(rows, side, STEM)), STEM), range_)

    def _block(self, block: int, first: _Channels) -> tuple[list[Layer], _Channels]:
        (count, channels), width = first.values.shape, WIDTHS[block - 1]
        values, bytes_, ranges = first.values.new_empty(count, width), first.bytes.new_empty(count, width), first.range
        values[:, :channels], bytes_[:, :channels] = first.values, first.bytes
        made = []
        for number in range(1, BLOCKS[block - 1] + 1):
            read = _Channels(values[:, :channels], bytes_[:, :channels], ranges)
            layer, added = self._layer(block, number, read)
            made.append(layer)
            end = channels + GROWTH
            values[:, channels:end], bytes_[:, channels:end] = added.values, added.bytes
            ranges, channels = ranges.joined(added.range), end
            self.step_done()
        return made, _Channels(values, bytes_, ranges)

    def _layer(self, block: int, number: int, read: _Channels) -> tuple[Layer, _Channels]:
        name, side = f"denseblock{block}.denselayer{number}", SIDES[block - 1]
        part = self.network.get_submodule(f"features.{name}")
        exact = fused.Layer(part, _REFERENCE)
        reduced, added = _reference(exact, read.values, side)
        bounds = byte_bounds(part.get_submodule("norm1"), read.range)
        bounded = bounds(read.bytes)
        task = _Task(f"{name}.conv1", exact.reduce.weight * read.range.step, reduced, None)
        first, narrow, rows = self._fit(
            task, bounded.__getitem__, lambda weights: weights.multiply(bounded, FLOAT32, "none")
        )
        maps = to_feature_maps(rows, side, BOTTLENECK)
        needed = self._needed(block, read.values.shape[1], GROWTH)
        task = _Task(f"{name}.conv2", exact.weight * narrow.step.view(1, -1, 1, 1), added, needed)
        second, wide, rows = self._fit(
            task,
            lambda positions: patches(maps, positions, side, 3, 1, 0),
            lambda weights: to_rows(weights.convolve(maps, FLOAT32, stride=1, padding=1, after="none"), GROWTH),
        )
        return Layer(Pointwise(bounds, first, "relu"), second), _Channels(added, rows, wide)

    def _transition(self, block: int, read: _Channels) -> tuple[Transition, _Channels]:
        name, side, width = f"transition{block}", SIDES[block - 1], WIDTHS[block - 1]
        part = self.network.get_submodule(f"features.{name}")
        norm = part.get_submodule("norm")
        exact = fused.Pointwise(norm, part.get_parameter("conv.weight"), None, _REFERENCE)
        outputs = []
        for values in read.values.split(_CHUNK * side**2):
            maps = to_feature_maps(exact.bounds(values), side, width)
            means = functional.avg_pool2d(maps, 2).contiguous(memory_format=torch.channels_last)
            outputs.append(exact.multiply(to_rows(means, width)))
        bounds = byte_bounds(norm, read.range)
        bounded = bounds(read.bytes)
        mean, mean_range, shrunk = _mean(bounds, bounded, side)
        task = _Task(
            f"{name}.conv",
            exact.weight * (read.range.step * mean_range.step),
            torch.cat(outputs),
            self._needed(block + 1, 0, width // 2),
        )
        weights, range_, rows = self._fit(
            task, shrunk.__getitem__, lambda weights: weights.multiply(shrunk, FLOAT32, "none")
        )
        self.step_done()
        return Transition(bounds, mean, weights), _Channels(task.outputs, rows, range_)

    def _needed(self, block: int, first: int, count: int) -> Interval:
        """Return what the readers of a block's channels distinguish, given those channels' place in its buffer."""
        layers = fused.layers(self.network, block)
        end = "norm5" if block == len(BLOCKS) else f"transition{block}.norm"
        norms = [layer.get_submodule("norm1") for layer in layers]
        norms.append(self.network.get_submodule(f"features.{end}"))
        readers = [norm for norm in norms if len(cast(Tensor, norm.running_mean)) > first]
        return Interval.read_by(readers, slice(first, first + count))

    def _fit(
        self, task: _Task, inputs: Callable[[Tensor], Tensor], run: Callable[[Weights], Tensor]
    ) -> tuple[Weights, Range, Tensor]:
        """Make the weights of a layer, and return them with the range of its outputs and their bytes (R, O).

        inputs: returns a layer's input bytes (P, I) at positions (P,). run: computes float32 results (R, O).
        """
        count = len(task.outputs)
        samples = min(count, _SAMPLES)
        positions = torch.arange(samples) * count // samples
        needed = task.needed or Interval.positive(task.outputs.shape[1])
        range_ = Range.of(task.outputs, needed, margin=task.margin, from_zero=task.needed is None)
        outputs = task.outputs[positions]
        moments = Moments.of(inputs(positions), outputs / range_.step)
        rounded = round_weights(task.exact.flatten(1) / range_.step[:, None], moments)
        weights = Weights(rounded.integers.view_as(task.exact), rounded.scales)
        results = run(weights)
        weights.bias.copy_(range_.means(task.outputs) - results.mean(0, dtype=torch.float64))
        rows = _rounded(results, weights)
        self.errors.append(
            layer_errors.measure(task.name, tuple(task.exact.shape), outputs, needed, range_, rows[positions])
        )
        return weights, range_, rows


def _rounded(results: Tensor, weights: Weights) -> Tensor:
    """Add the bias to float32 results (R, O) of weights without one, in place, and round to bytes."""
    return results.add_(weights.bias).round_().clamp_(0, MAX_BYTE).to(torch.uint8)


def _mean(bounds: Bounds, bounded: Tensor, side: int) -> tuple[Weights, Range, Tensor]:
    """Make the 2×2 mean of bytes (N · side², C) within their bounds.

    Return it with the range of its results, in these bytes, and its results (N · side²/4, C).
    """
    ones = torch.ones(bounded.shape[1], 1, 2, 2, dtype=torch.int8)
    sums = shrink(Weights(ones, torch.ones(len(ones))), bounded, side, FLOAT32)
    # Means use only a part of the 256 bytes: they are within the bounds, and less extreme.
    range_ = Range.of(sums / 4, Interval(bounds.low.double(), bounds.high.double()), margin=_MARGIN)
    range_ = Range(range_.low, range_.step.clamp_min(_FINEST))
    mean = Weights(ones, 0.25 / range_.step)
    mean.bias.copy_(-range_.low / range_.step)
    return mean, range_, _rounded(sums.mul_(mean.scales), mean)


def _reference(exact: fused.Layer, values: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Compute a layer in fp32's network: values (R, I) → results of its 1×1 (R, 128) and 3×3 convolution (R, 32)."""
    reduced, added = [], []
    for part in values.split(_CHUNK * side**2):
        rows = exact.reduce.linear(exact.reduce.bounds(part), exact.reduce.weight, exact.reduce.bias, "none")
        maps = exact.convolution(to_feature_maps(rows.relu(), side, BOTTLENECK), exact.weight, exact.bias, 1, 1, "none")
        reduced.append(rows)
        added.append(to_rows(maps, GROWTH))
    return torch.cat(reduced), torch.cat(added)


def patches(maps: Tensor, positions: Tensor, side: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Return the inputs of a convolution at some positions of its results.

    maps: uint8 (N, I, S, S). positions: (P,), into its results (N · side², O). padding: the byte around the maps.

    Returns uint8 (P, I · kernel²), in the order of a weight (O, I, kernel, kernel).
    """
    edge = kernel // 2
    rows = functional.pad(maps, (edge, edge, edge, edge), value=padding).permute(0, 2, 3, 1)
    image, y, x = positions // side**2, positions // side % side * stride, positions % side * stride
    taps = [rows[image, y + i, x + j] for i in range(kernel) for j in range(kernel)]
    return torch.stack(taps, 2).flatten(1)
