"""Rounding: integers for the weights of a layer, chosen so that its outputs are right rather than its weights.

The inputs of a layer rise and fall together, so that errors of its weights can compensate each other. Errors E (a row
for each output) cost tr(E H Eᵀ), where H is the covariance of the inputs: the bytes that the quantised layers before
make of the calibration images. Three steps reduce that:

1. Least squares: the weights are moved to where these inputs predict the outputs of the fp32 network best. That
   corrects the errors of the layers before, as far as they can be corrected.
2. Error feedback: the weights are rounded one input after the other, those of the most varying input first, and the
   following ones make up for the error so far (GPTQ: Frantar et al. 2022, arXiv 2210.17323; computed as LDLQ: Chee et
   al. 2023, arXiv 2307.13304, which needs a Cholesky factor of H, but not its inverse).
3. The scale of each output is that of a few with the smallest cost afterwards. It may clip the largest weights (Nagel
   et al. 2021, arXiv 2106.08295).

Inputs of other images vary in other ways, so a share of the mean of H's diagonal is added to its diagonal.
Without it, the weights would suit the calibration images only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from export import kernels

MAX_WEIGHT = 127
_DAMPING = 1.0  # of the mean variance of the inputs, added to each variance; GPTQ's 0.01 fits few images too closely
_SHARES = (1.0, 0.85, 0.7)  # of an output's largest weight that the largest integer stands for
_BLOCK = 64  # inputs between which errors are fed back one by one; a matrix product feeds back those before
_MIN_VARIANCE = 1e-6  # of bytes; if no input varies
_MIN_SCALE = 1e-9  # for outputs whose weights are all zero


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer on calibration images, float64."""

    inputs: Tensor
    """Covariance of the inputs, (I, I)."""
    outputs: Tensor
    """Covariance of the fp32 network's outputs with the inputs, (O, I)."""

    @classmethod
    def of(cls, inputs: Tensor, outputs: Tensor) -> "Moments":
        """Compute the moments of inputs (P, I), uint8, and outputs (P, O), at the same positions."""
        count = len(inputs)
        sums = inputs.sum(0, dtype=torch.float64)
        # The kernel multiplies bytes by signed ones.
        columns = inputs.mT.contiguous()
        products = kernels.products(columns, (columns.short() - 128).to(torch.int8)).double() + 128 * sums[:, None]
        covariance = (products + products.mT) / 2 / count - torch.outer(sums, sums) / count**2
        return cls(covariance, (outputs - outputs.mean(0)).mT @ (inputs.double() - sums / count) / count)


@dataclass(frozen=True)
class Rounded:
    """Weights as integer · scale: int8 (O, I), and float64 (O,)."""

    integers: Tensor
    scales: Tensor


def round_weights(weights: Tensor, moments: Moments) -> Rounded:
    """Round float64 weights (O, I) of a linear map."""
    order = torch.argsort(moments.inputs.diagonal(), descending=True, stable=True)
    covariance = moments.inputs[order][:, order]
    factor = _factor(covariance)
    exact = weights[:, order]
    exact = exact + _correction(moments.outputs[:, order] - exact @ covariance, factor)
    largest = (exact.abs().amax(1) / MAX_WEIGHT).clamp_min(_MIN_SCALE)
    scales = torch.cat([share * largest for share in _SHARES])
    integers, costs = _feed_back(exact.repeat(len(_SHARES), 1), scales, factor)
    outputs = len(weights)
    chosen = costs.view(len(_SHARES), outputs).argmin(0) * outputs + torch.arange(outputs)
    return Rounded(integers[chosen][:, torch.argsort(order)].to(torch.int8), scales[chosen])


def _factor(covariance: Tensor) -> Tensor:
    """Return the upper triangular R with R Rᵀ = H, damped: (I, I) → (I, I)."""
    damping = _DAMPING * covariance.diagonal().mean().clamp_min(_MIN_VARIANCE)
    damped = covariance + damping * torch.eye(len(covariance), dtype=torch.float64)
    # The factor of the matrix in reverse order is lower triangular, and upper triangular in the original order.
    factor: Tensor = torch.linalg.cholesky(damped.flip(0, 1))
    return factor.flip(0, 1)


def _correction(gradient: Tensor, factor: Tensor) -> Tensor:
    """Solve D R Rᵀ = gradient (O, I) for D."""
    half = torch.linalg.solve_triangular(factor.mT, gradient, upper=False, left=False)
    correction: Tensor = torch.linalg.solve_triangular(factor, half, upper=True, left=False)
    return correction


def _feed_back(weights: Tensor, scales: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights (O, I) to multiples of scales (O,), with error feedback.

    Return the integers (O, I) and what each row costs (O,). With R = U diag(r) and a unit upper triangular U, a row of
    errors e costs Σ r_i² (e U)_i². In (e U)_i are only errors of inputs up to i, so that integer i can make it small.
    """
    squares = factor.diagonal().square()
    unit = factor / factor.diagonal()
    columns = weights.mT.contiguous()  # (I, O), so that each input's weights are contiguous
    integers, errors, costs = torch.empty_like(columns), torch.empty_like(columns), torch.zeros_like(scales)
    for start in range(0, len(columns), _BLOCK):
        end = min(start + _BLOCK, len(columns))
        corrected = columns[start:end] + unit[:start, start:end].mT @ errors[:start]
        for i, column in enumerate(corrected, start):
            integers[i] = (column / scales).round_().clamp_(-MAX_WEIGHT, MAX_WEIGHT)
            rounded = integers[i] * scales
            costs += squares[i] * (column - rounded).square_()
            errors[i] = columns[i] - rounded
            corrected[i + 1 - start :].addr_(unit[i, i + 1 : end], errors[i])
    return integers.mT, costs
