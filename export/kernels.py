"""Kernels: oneDNN's matrix product and convolution with fused post-operations, callable from TorchScript.

These are the private operators that torch.compile generates for CPUs (torch/_inductor/fx_passes/mkldnn_fusion.py, and
onednn's in quantization.py). Tracing cannot record their lists of optional numbers, so each is called from a scripted
function. Weights are packed in each call unless handler/scoring.py, which finds the packing operators by name, has
packed them on loading.

Builds of torch without oneDNN lack these operators. There the scripted functions are never called, and the plain ones
take their place in fp32; the other precisions are refused (handler/hardware.py).
"""

import warnings
from collections.abc import Callable
from typing import ParamSpec, cast

import torch
from torch import Tensor
from torch.nn import functional

from handler import hardware

P = ParamSpec("P")


def scripted(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Call torch.jit.script without its deprecation warning; torch is pinned.

    Where torch lacks the operators, which fails on scripting, return the function as it is.
    """
    if not hardware.has_onednn():
        return function
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cast(Callable[P, Tensor], torch.jit.script(function))


@scripted
def linear(x: Tensor, weight: Tensor, bias: Tensor, after: str) -> Tensor:
    """Multiply rows (R, I) by weight (O, I) and add bias (O,) → (R, O). after: `relu` or `none`."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, after, [], "")
    return result


@scripted
def convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, after: str) -> Tensor:
    """Convolve (N, I, H, W) with weight (O, I, K, K) → (N, O, H', W'), both channels last. after: as in linear."""
    strides, paddings = [stride, stride], [padding, padding]
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, paddings, strides, [1, 1], 1, None)
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, packed, bias, paddings, strides, [1, 1], 1, after, [], ""
    )
    return result


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor, after: str) -> Tensor:
    """Compute linear() with torch's public operators, which run everywhere."""
    result = functional.linear(x, weight, bias)
    return result.relu_() if after == "relu" else result


def plain_convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, after: str) -> Tensor:
    """Compute convolution() with torch's public operators, which run everywhere."""
    result = functional.conv2d(x, weight, bias, stride, padding)
    # Some of torch's convolutions (NNPACK's) return channels first.
    result = result.contiguous(memory_format=torch.channels_last)
    return result.relu_() if after == "relu" else result


@scripted
def quantized_linear(
    x: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor, dtype: int, after: str
) -> Tensor:
    """Multiply uint8 rows (R, I) by int8 weight (O, I) with one scale per output and add a float bias → (R, O).

    x and a uint8 result have scale 1 and zero point 0; all other scales are in the weights. A uint8 result is rounded
    and clipped. dtype of the result: torch's number of uint8 (0) or float32 (6).
    """
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, packed, scales, zeros, bias, 1.0, 0, dtype, after, [], ""
    )
    return result


def products(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply uint8 rows (R, I) by int8 weight (O, I) → float32 (R, O): the exact sums, rounded. I is below 65 000."""
    ones, zeros = torch.ones(len(weight)), torch.zeros(len(weight))
    return quantized_linear(x, weight, ones, zeros.int(), zeros, 6, "none")


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
    """Convolve uint8 (N, I, H, W) of value step · (x - zero) with int8 (O, I / groups, K, K) → (N, O, H', W').

    Both channels last; the result as in quantized_linear.
    """
    strides, paddings = [stride, stride], [padding, padding]
    packed = torch.ops.onednn.qconv_prepack(weight, scales, step, zero, strides, paddings, [1, 1], groups, None)
    result: Tensor = torch.ops.onednn.qconv2d_pointwise(
        x, step, zero, packed, scales, zeros, bias, strides, paddings, [1, 1], groups, 1.0, 0, dtype, after, [], ""
    )
    return result
