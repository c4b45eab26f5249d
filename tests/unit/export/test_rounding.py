"""Rounding: integers whose errors cancel in a layer's outputs, however few images there are."""

import torch
from torch import Tensor

from export.rounding import MAX_WEIGHT, Moments, Rounded, round_weights
from tests.precisions import needs

pytestmark = needs("int8")  # which multiplies bytes


def correlated_bytes(count: int, inputs: int) -> Tensor:
    """Bytes that mostly rise and fall together, as the channels of a network do."""
    common, own = torch.randn(count, 4) @ torch.randn(4, inputs), torch.randn(count, inputs)
    return (90 + 20 * common + 5 * own).round().clamp(0, 255).to(torch.uint8)


def nearest(weights: Tensor) -> Tensor:
    """Weights rounded each on its own, with the largest of an output as the largest integer."""
    scales = weights.abs().amax(1, keepdim=True) / MAX_WEIGHT
    return (weights / scales).round() * scales


def used(rounded: Rounded) -> Tensor:
    return rounded.integers.double() * rounded.scales[:, None]


def error(weights: Tensor, inputs: Tensor, outputs: Tensor) -> float:
    """The mean squared error of the outputs, apart from their means, which biases correct."""
    difference = inputs.double() @ weights.mT - outputs
    return float((difference - difference.mean(0)).square().mean())


def test_moments_are_the_covariances() -> None:
    inputs, outputs = correlated_bytes(1000, 20), torch.randn(1000, 3, dtype=torch.float64)
    moments = Moments.of(inputs, outputs)
    together = torch.cov(torch.cat([inputs.double(), outputs], 1).mT, correction=0)
    torch.testing.assert_close(moments.inputs, together[:20, :20])
    torch.testing.assert_close(moments.outputs, together[20:, :20])


def test_outputs_are_closer_than_with_nearest_integers_also_on_other_inputs() -> None:
    inputs, weights = correlated_bytes(6000, 200), torch.randn(16, 200, dtype=torch.float64)
    known, new = inputs[:4000], inputs[4000:]
    rounded = used(round_weights(weights, Moments.of(known, known.double() @ weights.mT)))
    expected = new.double() @ weights.mT
    assert error(rounded, new, expected) < 0.2 * error(nearest(weights), new, expected)


def test_errors_of_earlier_layers_are_corrected() -> None:
    """The second half of the inputs has lost half of its swing, as if by a layer before."""
    exact, weights = correlated_bytes(4000, 40), torch.randn(8, 40, dtype=torch.float64)
    outputs = exact.double() @ weights.mT
    inputs = torch.cat([exact[:, :20], 45 + exact[:, 20:] // 2], 1)
    rounded = used(round_weights(weights, Moments.of(inputs, outputs)))
    assert error(rounded, inputs, outputs) < 0.05 * error(weights, inputs, outputs)


def test_integers_and_scales_are_of_the_order_of_the_weights() -> None:
    weights = torch.tensor([[1.0, -0.5, 0.25], [1000.0, 500.0, -250.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    inputs = torch.randint(0, 256, (2000, 3), dtype=torch.uint8)
    rounded = round_weights(weights, Moments.of(inputs, inputs.double() @ weights.mT))
    assert rounded.integers.dtype == torch.int8
    torch.testing.assert_close(used(rounded), weights, rtol=0.02, atol=0)


def test_few_images_and_inputs_that_never_vary_do_no_harm() -> None:
    weights = torch.randn(4, 100, dtype=torch.float64)
    for inputs in (correlated_bytes(9, 100), torch.full((50, 100), 7, dtype=torch.uint8)):
        inputs[:, 30:60] = 128
        rounded = round_weights(weights, Moments.of(inputs, inputs.double() @ weights.mT))
        torch.testing.assert_close(used(rounded), weights, rtol=0, atol=0.5)
