"""The fused network is the same function as torchvision's, whatever the batch-norms hold."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from export import kernels
from export.fused import FP32, ONEDNN_BF16, PLAIN_FP16, PLAIN_FP32, Bounds, Features, Kind, Pointwise, scale_and_shift
from export.network import Network, to_torchscript
from handler.hardware import has_onednn
from handler.scoring import read
from tests.conftest import tutorial_transform
from tests.photos import cutouts

pytestmark = pytest.mark.slow

wants_avx512 = pytest.mark.skipif(
    not (has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()), reason="oneDNN has no bf16 for this processor"
)

PLAIN_BF16 = Kind(torch.bfloat16, torch.bfloat16, kernels.plain_linear, kernels.plain_convolution)

Change = Callable[[nn.BatchNorm2d, torch.Generator], object]


def norms(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def some(norm: nn.BatchNorm2d, generator: torch.Generator, share: float) -> Tensor:
    return torch.rand(norm.weight.shape, generator=generator) < share


CHANGES: dict[str, Change] = {
    "negative scales": lambda norm, g: norm.weight.mul_(torch.where(some(norm, g, 0.3), -1.0, 1.0)),
    "scales of zero": lambda norm, g: norm.weight.masked_fill_(some(norm, g, 0.3), 0),
    "scales of next to nothing": lambda norm, g: norm.weight.masked_fill_(some(norm, g, 0.3), 1e-30),
    "channels that are never on": lambda norm, g: norm.bias.masked_fill_(some(norm, g, 0.3), -20),
    "channels that are always on": lambda norm, g: norm.bias.add_(some(norm, g, 0.1) * 20.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("outer", [True, False])
def test_a_normalised_convolution_is_the_same_function(change: Change, outer: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    norm, after = (nn.BatchNorm2d(channels).eval() for channels in (48, 16))
    convolution = nn.Conv2d(48, 16, 1, bias=False)
    with torch.no_grad():
        for one in (norm, after):
            for tensor in (one.weight, one.bias, one.running_mean):
                assert tensor is not None
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            change(one, generator)
        rows = torch.randn(100, 48, generator=generator)
        expected = functional.relu(norm(rows.view(100, 48, 1, 1)))
        expected = functional.conv2d(expected, convolution.weight)
        expected = functional.relu(after(expected)) if outer else expected
        actual = Pointwise(norm, convolution.weight, after if outer else None, FP32)(rows)
    assert torch.isfinite(actual).all()
    scale = expected.abs().max().clamp_min(1)
    assert (actual - expected.view(100, 16)).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_network_is_the_same_function(network: nn.Module, change: Change) -> None:
    changed = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        for norm in norms(changed):
            change(norm, generator)
        expected, actual = changed(images), Network(Features(changed), changed).eval()(images)
    assert ((actual - expected).abs().amax(1) <= 1e-4 * expected.std(1).clamp_min(1e-3)).all()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_images_of_a_batch_do_not_touch_each_other(network: nn.Module, batch: int) -> None:
    images = torch.randn(batch, 3, 224, 224)
    fused = Network(Features(network), network).eval()
    with torch.no_grad():
        together, alone = fused(images), torch.cat([fused(image) for image in images.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


# Neither needs the precision's own instructions: oneDNN and torch widen what the processor cannot multiply.
@pytest.mark.parametrize(
    ("kind", "tolerance"), [pytest.param(ONEDNN_BF16, 0.5, marks=wants_avx512), (PLAIN_FP16, 0.1)], ids=["bf16", "fp16"]
)
def test_half_the_bits_say_nearly_the_same(network: nn.Module, kind: Kind, tolerance: float) -> None:
    images = torch.stack([tutorial_transform()(image) for image in cutouts(3)])
    loaded = read(to_torchscript(Network(Features(network, kind), network).eval()))
    with torch.inference_mode():
        expected, actual = network(images), loaded(images)
        activations = loaded.features(images)
        together, alone = actual, torch.cat([loaded(image) for image in images.split(1)])
    assert actual.dtype == activations.dtype == torch.float32
    assert not torch.equal(actual, expected)
    differences = (actual - expected).abs().amax(1) / expected.std(1)
    assert differences.max() <= tolerance
    assert ((together - alone).abs().amax(1) / expected.std(1)).max() <= tolerance


@pytest.fixture
def _without_onednn() -> Iterator[None]:
    """Make torch's public operators do without it, too."""
    torch.backends.mkldnn.set_flags(_enabled=False)
    yield
    torch.backends.mkldnn.set_flags(_enabled=True)


# Then torch's convolution of 16 images and more is NNPACK's, which returns channels first.
@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.usefixtures("_without_onednn")
def test_public_operators_keep_channels_last_without_onednn(count: int) -> None:
    maps = torch.randn(count, 128, 7, 7).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(32, 128, 3, 3).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        actual = kernels.plain_convolution(maps, weight, torch.zeros(32), 1, 1, "relu")
    assert actual.is_contiguous(memory_format=torch.channels_last)
    expected = functional.conv2d(maps.double(), weight.double(), padding=1).relu()
    assert (actual - expected).abs().max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.usefixtures("_without_onednn")
def test_the_network_of_public_operators_is_the_same_function(network: nn.Module, count: int) -> None:
    images = torch.randn(count, 3, 224, 224)
    loaded = read(to_torchscript(Network(Features(network, PLAIN_FP32), network).eval()))
    with torch.inference_mode():
        expected, actual = network(images), loaded(images)
    assert ((actual - expected).abs().amax(1) <= 1e-4 * expected.std(1)).all()


def test_making_it_leaves_the_eager_network_as_it_was(network: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Network(Features(network), network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_rising_channels_are_bounded_from_below_and_falling_ones_from_above() -> None:
    bounds = Bounds(torch.tensor([1.0, 1.0]), torch.tensor([True, False]), -torch.inf, torch.inf)
    assert bounds(torch.tensor([[0.0, 0.0], [2.0, 2.0]])).tolist() == [[1.0, 0.0], [2.0, 1.0]]


@pytest.mark.parametrize("falling", [[], [0], [5], [2, 4], [0, 5], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.uint8])
def test_bounds_are_a_clamp_in_every_dtype(dtype: torch.dtype, falling: list[int]) -> None:
    limits = (0, 255) if dtype == torch.uint8 else (-torch.inf, torch.inf)
    buffer, bound = ((torch.randn(size) * 60 + 100).to(dtype) for size in ((50, 9), (6,)))
    rising = torch.tensor([i not in falling for i in range(6)])
    before, rows = buffer.clone(), buffer[:, :6]
    expected = torch.where(rising, torch.maximum(rows, bound), torch.minimum(rows, bound))
    assert torch.equal(Bounds(bound, rising, *limits)(rows), expected)
    assert torch.equal(buffer, before)


def test_bf16_takes_a_falling_channel_that_is_switched_off_for_a_constant() -> None:
    norm, weight = nn.BatchNorm2d(4).eval(), torch.randn(8, 4, 1, 1)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1e-3, -1e-3, -0.2]))  # the second is on, the third off
        norm.bias.copy_(torch.tensor([0.1, 0.3, -0.3, 0.1]))
        assert norm.running_mean is not None
        norm.running_mean.fill_(2.0)
        rows = torch.randn(200, 4) + 2
        expected = functional.conv2d(functional.relu(norm(rows.view(-1, 4, 1, 1))), weight).flatten(1)
        pointwise = Pointwise(norm, weight, None, PLAIN_BF16)
        actual = pointwise(rows.bfloat16()).float()
    assert (pointwise.bounds.first, pointwise.bounds.end) == (3, 4)
    # bf16 rounds each product's factors by at most 2^-8.
    assert (actual - expected).abs().max() <= 0.03 * expected.std()


def test_scale_and_shift_are_the_batch_norm() -> None:
    norm = nn.BatchNorm2d(8).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            assert tensor is not None
            tensor.normal_()
    scale, shift = scale_and_shift(norm)
    x = torch.randn(4, 8, 1, 1)
    torch.testing.assert_close(norm(x).view(4, 8).double(), x.view(4, 8) * scale + shift, rtol=1e-5, atol=1e-5)
