"""The quantizer: its network is close to the fp32 one, and the same on every processor."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from export import ROOT
from export.agreement import compare
from export.network import Network, to_torchscript
from export.quantizer import STEPS, Quantized, patches, quantize
from handler.scoring import read
from tests.conftest import tutorial_transform
from tests.photos import cutouts
from tests.precisions import needs

CALIBRATING = 8

pytestmark = [pytest.mark.slow, needs("int8")]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.stack([tutorial_transform()(image) for image in cutouts(CALIBRATING + 10)])


@pytest.fixture(scope="module")
def steps() -> list[None]:
    """An element for each step of `made`."""
    return []


@pytest.fixture(scope="module")
def made(network: nn.Module, images: Tensor, steps: list[None]) -> Quantized:
    return quantize(network, images[:CALIBRATING], lambda: steps.append(None))


@pytest.fixture(scope="module")
def quantized(network: nn.Module, made: Quantized) -> Network:
    return Network(made.features, network).eval()


def test_it_says_what_the_fp32_network_says_but_for_little(
    network: nn.Module, quantized: Network, images: Tensor
) -> None:
    with torch.no_grad():
        expected, actual = network(images[CALIBRATING:]), quantized(images[CALIBRATING:])
    # The filters are random: a relative error of 1 % at their beginning grows to 7 % at their end.
    assert (actual - expected).pow(2).mean().sqrt() < 0.17 * expected.std()
    assert compare(network, quantized, images[CALIBRATING:]).mean_distance < 0.17


@pytest.mark.parametrize("batch", [1, 3])
def test_torchscript_answers_the_same_at_any_batch_size(quantized: Network, images: Tensor, batch: int) -> None:
    loaded = read(to_torchscript(quantized))
    with torch.inference_mode():
        assert torch.equal(loaded(images[:batch]), quantized(images[:batch]))
    kinds = {node.kind() for node in loaded.features.graph.nodes()}
    assert not {kind for kind in kinds if "prepack" in kind}


def test_the_error_of_every_convolution_is_measured(network: nn.Module, made: Quantized) -> None:
    convolutions = [(name, m) for name, m in network.features.named_modules() if isinstance(m, nn.Conv2d)]
    assert [error.name for error in made.errors] == [name for name, _ in convolutions]
    assert all(error.signal_to_noise > 10 for error in made.errors)
    assert all(error.clipped < 0.001 for error in made.errors)


@pytest.mark.usefixtures("made")
def test_progress_is_told_as_often_as_promised(steps: list[None]) -> None:
    assert len(steps) == STEPS


def test_channels_that_never_change_do_no_harm(network: nn.Module, images: Tensor) -> None:
    dead = copy.deepcopy(network)
    with torch.no_grad():
        for module in dead.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[::7] = 0
                module.bias[::7] = -1
                module.weight[3::7] *= -1
        logits = quantize(dead, images[:2]).features(images[:2])
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (7, 2)])
def test_patches_are_what_a_convolution_multiplies(size: int, stride: int) -> None:
    maps = torch.randint(0, 256, (2, 5, 8, 8), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    weight, padding = torch.randn(4, 5, size, size), 9
    edge = size // 2
    padded = functional.pad(maps.float(), (edge,) * 4, value=padding)
    expected = functional.conv2d(padded, weight, stride=stride).permute(0, 2, 3, 1).reshape(-1, 4)
    positions = torch.randperm(len(expected))[:50]
    inputs = patches(maps, positions, 8 // stride, size, stride, padding)
    torch.testing.assert_close(inputs.float() @ weight.flatten(1).mT, expected[positions], rtol=1e-4, atol=1e-2)


QUANTIZE = """
import sys
import torch
from export import network, quantizer, weights
eager, images = network.build(weights.load(sys.argv[1]).state), torch.load(sys.argv[2])
torch.save(quantizer.quantize(eager, images).features.state_dict(), sys.argv[3])
"""


def test_it_is_the_same_on_another_processor(made: Quantized, checkpoint: Path, images: Tensor, tmp_path: Path) -> None:
    """One where oneDNN has no instructions for bf16, and torch none of AVX-512 and only one thread."""
    inputs, result = tmp_path / "images.pt", tmp_path / "quantized.pt"
    torch.save(images[:CALIBRATING].clone(), inputs)
    older = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", QUANTIZE, checkpoint, inputs, result],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | older,
        check=True,
    )
    expected, elsewhere = made.features.state_dict(), torch.load(result)
    assert expected.keys() == elsewhere.keys()
    assert not [name for name, tensor in expected.items() if not torch.equal(tensor, elsewhere[name])]
