"""Kernels: oneDNN's matrix product and convolution with what follows them fused in, as TorchScript can call them.

They are the operators that torch.compile generates for CPUs (torch/_inductor/fx_passes/mkldnn_fusion.py and
onednn's in quantization.py), without a public name. Tracing cannot record their lists of optional numbers, so each is
called from a scripted function. Weights are packed anew in each call unless handler/scoring.py, which knows the packing
operators by name, has done it once and for all.
"""

import warnings
from collections.abc import Callable
from typing import ParamSpec, cast

import torch
from torch import Tensor
from torch.nn import functional

P = ParamSpec("P")


def scripted(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """torch.jit.script, without the warning that it is deprecated: versions are pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cast(Callable[P, Tensor], torch.jit.script(function))


@scripted
def linear(x: Tensor, weight: Tensor, bias: Tensor, after: str) -> Tensor:
    """Rows (R, I) times weight (O, I), plus bias (O,) → (R, O); after: `relu` or `none`."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, after, [], "")
    return result


@scripted
def convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, after: str) -> Tensor:
    """(N, I, H, W), channels last, with weight (O, I, K, K) → (N, O, H', W'), channels last; after as in linear."""
    strides, paddings = [stride, stride], [padding, padding]
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, paddings, strides, [1, 1], 1, None)
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, packed, bias, paddings, strides, [1, 1], 1, after, [], ""
    )
    return result


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor, after: str) -> Tensor:
    """As linear, by torch's public operators, which run on a GPU too."""
    result = functional.linear(x, weight, bias)
    return result.relu_() if after == "relu" else result


def plain_convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, after: str) -> Tensor:
    """As convolution, by torch's public operators, which run on a GPU too."""
    result = functional.conv2d(x, weight, bias, stride, padding)
    return result.relu_() if after == "relu" else result


@scripted
def quantized_linear(
    x: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor, dtype: int, after: str
) -> Tensor:
    """uint8 rows (R, I) times int8 weight (O, I) of a scale an output, plus float bias → (R, O) of the dtype.

    x counts in steps of 1 from 0, and so does a uint8 result, rounded and clipped: all other scales are in the weights.
    dtype: torch's number of uint8 (0) or float32 (6).
    """
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, packed, scales, zeros, bias, 1.0, 0, dtype, after, [], ""
    )
    return result


@scripted
def quantized_convolution(
    x: Tensor,
    step: float,
    zero: int,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bias: Tensor,
    stride: int,
    padding: int,
    groups: int,
    dtype: int,
    after: str,
) -> Tensor:
    """uint8 (N, I, H, W) that stands for step · (x - zero), with int8 weight (O, I / groups, K, K) → (N, O, H', W').

    Both channels last; the result as in quantized_linear.
    """
    strides, paddings = [stride, stride], [padding, padding]
    packed = torch.ops.onednn.qconv_prepack(weight, scales, step, zero, strides, paddings, [1, 1], groups, None)
    result: Tensor = torch.ops.onednn.qconv2d_pointwise(
        x, step, zero, packed, scales, zeros, bias, strides, paddings, [1, 1], groups, 1.0, 0, dtype, after, [], ""
    )
    return result
