"""The quantised network: close to the fp32 one, and its steps are what they are described to be."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.agreement import compare
from export.network import Network, to_torchscript
from export.quantized import IMAGE_STEP, IMAGE_ZERO, STEPS, Range, Transition, Weights, quantize, to_bytes
from handler.scoring import read
from tests.conftest import tutorial_transform
from tests.photos import cutouts
from tests.precisions import needs

pytestmark = pytest.mark.slow

WIDE = torch.linspace(-1, 1, 800).view(100, 8, 1, 1)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.stack([tutorial_transform()(image) for image in cutouts(30)])


@pytest.fixture(scope="module")
def quantized(network: nn.Module, images: Tensor) -> Network:
    return Network(quantize(network, images[:20]), network).eval()


@needs("int8")
def test_it_says_what_the_fp32_network_says_but_for_little(
    network: nn.Module, quantized: Network, images: Tensor
) -> None:
    with torch.no_grad():
        expected, actual = network(images[20:]), quantized(images[20:])
    # The filters are random: a relative error of 1 % at their beginning grows to 7 % at their end.
    assert (actual - expected).pow(2).mean().sqrt() < 0.3 * expected.std()
    assert compare(network, quantized, images[20:]).mean_distance < 0.25


@pytest.mark.parametrize("batch", [1, 3])
def test_torchscript_answers_the_same_at_any_batch_size(quantized: Network, images: Tensor, batch: int) -> None:
    loaded = read(to_torchscript(quantized))
    with torch.inference_mode():
        assert torch.equal(loaded(images[:batch]), quantized(images[:batch]))
    kinds = {node.kind() for node in loaded.features.graph.nodes()}
    assert not {kind for kind in kinds if "prepack" in kind}


def test_progress_is_told_as_often_as_promised(network: nn.Module, images: Tensor) -> None:
    done: list[None] = []
    quantize(network, images[:2], lambda: done.append(None))
    assert len(done) == STEPS


def test_a_transition_averages_bytes_within_their_bounds() -> None:
    norm, channels = nn.BatchNorm2d(16).eval(), torch.ones(16, dtype=torch.float64)
    with torch.no_grad():
        norm.bias.copy_(torch.linspace(-200, 10, 16))
    transition = Transition(norm, torch.randn(8, 16, 1, 1), Range(0 * channels, channels), Range.of(WIDE))
    rows = torch.randint(0, 256, (2 * 12 * 12, 16), dtype=torch.uint8)
    # The batch-norm adds the bias; what is below nought then is nought.
    floor = (-norm.bias.detach() / norm.weight.detach()).round().clamp(0, 255)
    bounded = rows.float().maximum(floor).view(2, 12, 12, 16).permute(0, 3, 1, 2)
    expected = functional.avg_pool2d(bounded, 2).permute(0, 2, 3, 1).reshape(-1, 16)
    assert (transition.shrink(rows, 12).float() - expected).abs().max() <= 0.5


def test_images_become_bytes_as_fine_as_their_pixels() -> None:
    pixels = torch.randint(0, 256, (1, 3, 16, 16))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalized = (pixels / 255 - mean) / std
    back = (to_bytes(normalized).float() - IMAGE_ZERO) * IMAGE_STEP
    assert (back - normalized).abs().max() <= IMAGE_STEP * 0.75


def test_what_is_far_beyond_an_image_is_clipped() -> None:
    bytes_ = to_bytes(torch.tensor([-1e6, 1e6]).view(1, 1, 1, 2))
    assert bytes_.flatten().tolist() == [0, 255]


def test_weights_are_rounded_each_output_by_its_own_scale() -> None:
    weight = torch.tensor([[1.0, -0.5], [1000.0, 500.0], [0.0, 0.0]], dtype=torch.float64)
    weights = Weights(weight)
    back = weights.weight.double() * weights.scales.double()[:, None]
    assert (back - weight).abs().max() <= 1000 / 127 / 2 + 1e-3
    assert (back[0] - weight[0]).abs().max() <= 1 / 127 / 2 + 1e-6


def test_centering_makes_the_mean_that_is_wanted() -> None:
    weights = Weights(torch.randn(8, 16, dtype=torch.float64))
    rows = torch.randint(0, 256, (500, 16), dtype=torch.uint8)
    wanted = torch.linspace(50, 200, 8, dtype=torch.float64)
    weights.center(lambda dtype: weights.multiply(rows, dtype, "none"), wanted)
    means = weights.multiply(rows, 6, "none").double().mean(0)
    torch.testing.assert_close(means, wanted, rtol=1e-4, atol=1e-2)


def test_a_range_leaves_the_rarest_values_out() -> None:
    values = torch.linspace(0, 1, 40_000).view(1, 1, 200, 200).clone()
    values[0, 0, 0, 0], values[0, 0, -1, -1] = -1000, 1000
    found = Range.of(values)
    assert math.isclose(float(found.low), 0, abs_tol=1e-3)
    assert math.isclose(float(found.step * 255 + found.low), 1, abs_tol=1e-3)


def test_channels_that_never_change_do_no_harm(network: nn.Module, images: Tensor) -> None:
    dead = copy.deepcopy(network)
    with torch.no_grad():
        for module in dead.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[::7] = 0
                module.bias[::7] = -1
                module.weight[3::7] *= -1
        logits = quantize(dead, images[:4])(images[:4])
    assert torch.isfinite(logits).all()
