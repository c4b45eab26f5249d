"""Fused: DenseNet-121 rewritten to compute the same function of the same weights in fewer passes over memory.

- A dense block uses one buffer: a layer adds its 32 channels there, while a concatenation would copy all earlier ones.
- A batch-norm and the following ReLU need no separate pass. With scale s and shift b of a channel,
      relu(s·x + b) = s·max(x, -b/s) + b        (min for s < 0),
  and the convolution that follows is linear: s is folded into its weights W, and W·b into its bias. Only a comparison
  remains.
- A batch-norm after a convolution is folded into that convolution.
- A transition averages before its 1×1 convolution instead of after it: the result is the same with a quarter of the
  arithmetic.
- Channels are last in memory, so that a 1×1 convolution is a matrix product over rows of the buffer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export import kernels
from handler import hardware

# Huang et al. 2017, table 1: DenseNet-121. Shapes are constants, except for the number of images, because tracing turns
# each shape read from a tensor into several operators per call, half a millisecond in total.
STEM = 64  # channels of the first convolution
GROWTH = 32  # channels that a layer adds
BOTTLENECK = 4 * GROWTH  # channels between a layer's two convolutions
BLOCKS = (6, 12, 24, 16)  # layers
SIDES = (56, 28, 14, 7)  # of the blocks' feature maps
WIDTHS = (256, 512, 1024, 1024)  # channels at the blocks' ends


@dataclass(frozen=True)
class Kind:
    """The dtypes and kernels of a fused network. export/kernels.py describes the kernels' arguments."""

    dtype: torch.dtype
    """The dtype of activations and weights."""
    bias_dtype: torch.dtype
    """The dtype of biases, which the kernels add to sums of products in float32."""
    linear: Callable[[Tensor, Tensor, Tensor, str], Tensor]
    convolution: Callable[[Tensor, Tensor, Tensor, int, int, str], Tensor]


ONEDNN_FP32 = Kind(torch.float32, torch.float32, kernels.linear, kernels.convolution)
ONEDNN_BF16 = Kind(torch.bfloat16, torch.float32, kernels.linear, kernels.convolution)
PLAIN_FP32 = Kind(torch.float32, torch.float32, kernels.plain_linear, kernels.plain_convolution)
PLAIN_FP16 = Kind(torch.float16, torch.float16, kernels.plain_linear, kernels.plain_convolution)

FP32 = ONEDNN_FP32 if hardware.has_onednn() else PLAIN_FP32

# A smaller scale of a channel counts as zero, because dividing by it would overflow.
_NO_SCALE = 1e-12


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return scale and shift, float64 (C,), of a batch-norm in eval mode."""
    weight, bias, mean, variance = (
        cast(Tensor, getattr(norm, name)).double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / torch.sqrt(variance + cast(float, norm.eps))
    return scale, bias - mean * scale


def _without_weak(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return scale_and_shift(), with a constant for falling channels that bf16 cannot tell from one.

    Trained networks have many channels that training has switched off, whose weight is nearly zero and its sign chance.
    Their deviation is that weight; here it is less than what rounding costs the layer's strongest channel.
    """
    scale, shift = scale_and_shift(norm)
    weight, bias = (cast(Tensor, getattr(norm, name)).double() for name in ("weight", "bias"))
    weak = (scale < 0) & (weight.abs() < weight.abs().max() * torch.finfo(torch.bfloat16).eps / 2)
    return scale.masked_fill(weak, 0), torch.where(weak, bias, shift)


def layers(network: nn.Module, block: int) -> list[nn.Module]:
    """Return the layers of torchvision's dense block 1..4."""
    return list(network.get_submodule(f"features.denseblock{block}").children())


class Bounds(nn.Module):
    """The comparison that remains of batch-norm and ReLU: a lower bound, or an upper one for a negative scale."""

    low: Tensor
    high: Tensor

    def __init__(self, bound: Tensor, rising: Tensor, minimum: float, maximum: float) -> None:
        """bound: (C,), in the values' dtype. rising: bool (C,), whether the bound is a lower one."""
        super().__init__()
        falling = (~rising).nonzero()
        self.only_low = not len(falling)
        # clamp takes one pass over memory, but in bf16 twice as long as maximum, for conversions to float and back.
        self.in_two_steps = bound.dtype == torch.bfloat16
        self.first, self.end = 0, len(bound)
        if self.in_two_steps and not self.only_low:
            self.first, self.end = int(falling.min()), int(falling.max()) + 1
        high = torch.where(rising, torch.full_like(bound, maximum), bound)
        self.register_buffer("low", torch.where(rising, bound, torch.full_like(bound, minimum)))
        self.register_buffer("high", high[self.first : self.end].clone())

    def forward(self, rows: Tensor) -> Tensor:
        """Apply the bounds: (R, C) → (R, C)."""
        if not (self.only_low or self.in_two_steps):
            return torch.clamp(rows, self.low, self.high)
        bounded = torch.maximum(rows, self.low)
        if not self.only_low:
            torch.ops.aten.slice(bounded, 1, self.first, self.end).clamp_max_(self.high)
        return bounded


class Pointwise(nn.Module):
    """Batch-norm, ReLU, 1×1 convolution, and an optional batch-norm and ReLU after it, over rows of a buffer."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.Module, weight: Tensor, after: nn.Module | None, kind: Kind) -> None:
        """weight: (O, I, 1, 1)."""
        super().__init__()
        scale, shift = _without_weak(norm) if kind.dtype == torch.bfloat16 else scale_and_shift(norm)
        outer_scale, outer_shift = (1.0, 0.0) if after is None else scale_and_shift(after)
        # The bound must not overflow either. With such a bound, the output is the channel's shift for every input.
        flat = (scale.abs() < _NO_SCALE) | (shift.abs() > scale.abs() * torch.finfo(kind.dtype).max / 2)
        bound = (-shift / scale).masked_fill(flat, 0).to(kind.dtype)
        outer = weight.flatten(1).double() * torch.as_tensor(outer_scale).view(-1, 1)
        matrix = (outer * scale.masked_fill(flat, 0)).to(kind.dtype)
        # W·b is computed from the rounded numbers, so that a channel at its bound contributes exactly zero.
        bias = outer @ shift.clamp_min(0).masked_fill(~flat, 0) - matrix.double() @ bound.double() + outer_shift
        self.bounds = Bounds(bound, scale >= 0, -torch.inf, torch.inf)
        self.register_buffer("weight", matrix.contiguous())
        self.register_buffer("bias", bias.to(kind.bias_dtype))
        self.after = "none" if after is None else "relu"
        self.linear = kind.linear

    def forward(self, rows: Tensor) -> Tensor:
        """Apply the bounds and multiply: (R, I) → (R, O)."""
        return self.multiply(self.bounds(rows))

    def multiply(self, bounded: Tensor) -> Tensor:
        """Multiply rows that are within their bounds."""
        return self.linear(bounded, self.weight, self.bias, self.after)


class Layer(nn.Module):
    """One layer of a dense block: computes 32 more channels from all previous ones."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Module, kind: Kind) -> None:
        super().__init__()
        self.reduce = Pointwise(
            layer.get_submodule("norm1"), layer.get_parameter("conv1.weight"), layer.get_submodule("norm2"), kind
        )
        weight = layer.get_parameter("conv2.weight").detach()
        self.register_buffer("weight", weight.to(kind.dtype, memory_format=torch.channels_last))
        self.register_buffer("bias", torch.zeros(len(weight), dtype=kind.bias_dtype))
        self.convolution = kind.convolution

    def forward(self, rows: Tensor, side: int) -> Tensor:
        """Compute the layer's channels: (N · side², I) → (N, 32, side, side)."""
        reduced = to_feature_maps(self.reduce(rows), side, BOTTLENECK)
        return self.convolution(reduced, self.weight, self.bias, 1, 1, "none")


def to_feature_maps(rows: Tensor, side: int, channels: int) -> Tensor:
    """Reshape (N · S², C) → (N, C, S, S), channels last, without a copy."""
    return rows.view(-1, side, side, channels).permute(0, 3, 1, 2)


def to_rows(maps: Tensor, channels: int) -> Tensor:
    """Reshape (N, C, S, S), channels last → (N · S², C), without a copy."""
    return maps.permute(0, 2, 3, 1).view(-1, channels)


class Features(nn.Module):
    """The features: float32 (N, 3, 224, 224), normalized → float32 activations (N, 49, 1024), for any N."""

    stem_weight: Tensor
    stem_bias: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, kind: Kind = FP32) -> None:
        """network: torchvision's DenseNet-121 in eval mode; its tensors are copied."""
        super().__init__()
        self.dtype = kind.dtype
        self.convolution = kind.convolution
        scale, shift = scale_and_shift(network.get_submodule("features.norm0"))
        stem = network.get_parameter("features.conv0.weight").double() * scale.view(-1, 1, 1, 1)
        self.register_buffer("stem_weight", stem.to(kind.dtype, memory_format=torch.channels_last))
        self.register_buffer("stem_bias", shift.to(kind.bias_dtype))
        self.blocks = nn.ModuleList(
            nn.ModuleList(Layer(layer, kind) for layer in layers(network, block)) for block in range(1, len(BLOCKS) + 1)
        )
        self.transitions = nn.ModuleList(
            Pointwise(part.get_submodule("norm"), part.get_parameter("conv.weight"), None, kind)
            for part in (network.get_submodule(f"features.transition{i}") for i in range(1, len(BLOCKS)))
        )
        scale, shift = scale_and_shift(network.get_submodule("features.norm5"))
        self.register_buffer("scale", scale.float())
        self.register_buffer("shift", shift.float())

    def forward(self, images: Tensor) -> Tensor:
        """Compute the activations."""
        x = images.to(self.dtype, memory_format=torch.channels_last)
        x = self.convolution(x, self.stem_weight, self.stem_bias, 2, 3, "relu")
        x = functional.max_pool2d(x, 3, 2, 1)
        for block, transition, side, width in zip(self.blocks, [*self.transitions, None], SIDES, WIDTHS, strict=True):
            rows = grow(x, cast(nn.ModuleList, block), side, width)
            if transition is not None:
                bounded = to_feature_maps(transition.bounds(rows), side, width)
                rows = transition.multiply(to_rows(functional.avg_pool2d(bounded, 2), width))
                x = to_feature_maps(rows, side // 2, width // 2)
        return torch.addcmul(self.shift, rows.float(), self.scale).relu_().view(-1, side * side, width)


def grow(x: Tensor, block: nn.ModuleList, side: int, width: int) -> Tensor:
    """Run a dense block: (N, C, S, S) → rows (N · S², width) of all channels, with width = C + 32 · layers."""
    channels = width - GROWTH * len(block)
    maps = x.new_empty((x.shape[0], side, side, width))
    rows = maps.view(-1, width)
    first, *others = maps.permute(0, 3, 1, 2).split([channels] + [GROWTH] * len(block), 1)
    first.copy_(x)
    for layer, added in zip(block, others, strict=True):
        # Indexing with brackets is traced as two operators, and narrow() takes as long as two.
        added.copy_(layer(torch.ops.aten.slice(rows, 1, 0, channels), side))
        channels += GROWTH
    return rows
