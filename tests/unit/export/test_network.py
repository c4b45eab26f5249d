"""Network: torchvision's own from a state dict, and TorchScript that answers as it does."""

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import densenet121, densenet169, resnet18

from export import ROOT
from export.console import CliError
from export.fused import Features
from export.network import Network, build, to_torchscript
from handler.scoring import read

State = dict[str, Tensor]
CONV = "features.denseblock3.denselayer7.conv2.weight"


@pytest.fixture(scope="module")
def script(network: nn.Module) -> bytes:
    return to_torchscript(Network(Features(network), network).eval())


@pytest.fixture
def state(network: nn.Module) -> State:
    return dict(network.state_dict())


def test_a_state_dict_makes_torchvisions_network(network: nn.Module, state: State) -> None:
    image = torch.randn(1, 3, 224, 224)
    built = build(state)
    assert not built.training
    with torch.inference_mode():
        assert torch.equal(built(image), network(image))


def test_the_classifier_gives_the_number_of_classes() -> None:
    torch.manual_seed(3)
    original = densenet121(num_classes=3).eval()
    image = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        logits = build(original.state_dict())(image)
        assert logits.shape == (2, 3)
        assert torch.equal(logits, original(image))


def without(name: str, state: State) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


def test_a_missing_tensor_is_named(state: State) -> None:
    with pytest.raises(CliError, match=re.escape(f"{CONV} is missing (1 missing, 0 unknown")):
        build(without(CONV, state))


def test_an_unknown_tensor_is_named(state: State) -> None:
    with pytest.raises(CliError, match=re.escape("head.weight is unknown (0 missing, 1 unknown")):
        build(state | {"head.weight": torch.zeros(1)})


def test_a_tensor_of_another_shape_is_named_with_both_shapes(state: State) -> None:
    with pytest.raises(CliError, match=re.escape(CONV)) as caught:
        build(state | {CONV: torch.zeros(32, 128, 1, 1)})
    assert "(32, 128, 1, 1)" in str(caught.value)
    assert "(32, 128, 3, 3)" in str(caught.value)


def test_step_counters_may_be_missing(state: State) -> None:
    older = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(older) == len(state) - 121
    build(older)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [(densenet169, "(1000, 1664)"), (resnet18, "it is missing"), (lambda: nn.Linear(1, 1), "it is missing")],
)
def test_another_architecture_is_refused(architecture: type[nn.Module], shape: str) -> None:
    with pytest.raises(CliError, match=r"not a DenseNet-121: classifier\.weight") as caught:
        build(architecture().state_dict())
    assert shape in str(caught.value)


@pytest.mark.parametrize("classifier", [torch.zeros(1024), torch.zeros(10, 1024, 1), torch.tensor(0.0)])
def test_a_classifier_that_is_no_matrix_is_refused(classifier: Tensor, state: State) -> None:
    with pytest.raises(CliError, match=re.escape(str(tuple(classifier.shape)))):
        build(state | {"classifier.weight": classifier})


def test_no_tensors_at_all_are_refused() -> None:
    with pytest.raises(CliError, match="not a DenseNet-121"):
        build({})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_refused_and_named(value: float, state: State) -> None:
    broken = state[CONV].clone()
    broken[3, 5, 1, 1] = value
    with pytest.raises(CliError, match=re.escape(CONV)):
        build(state | {CONV: broken})


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_torchscript_answers_as_the_eager_network_at_any_batch_size(
    batch: int, network: nn.Module, script: bytes
) -> None:
    images = torch.randn(batch, 3, 224, 224)
    loaded = read(script)
    with torch.inference_mode():
        expected, actual = network(images), loaded(images)
    assert actual.shape == (batch, 1000)
    assert ((actual - expected).abs().amax(dim=1) <= 1e-4 * expected.std(dim=1)).all()


def test_its_features_are_what_the_eager_network_has_before_pooling(network: nn.Module, script: bytes) -> None:
    images = torch.randn(2, 3, 224, 224)
    loaded = read(script)
    with torch.inference_mode():
        expected = torch.relu(network.get_submodule("features")(images)).flatten(2).transpose(1, 2)
        actual = loaded.features(images)
        assert actual.shape == (2, 49, 1024)
        assert (actual - expected).abs().max() <= 1e-4 * expected.std()
        # Linear: the mean of the logits of all positions is the image's logits.
        positions = loaded.head(actual.flatten(0, 1).unsqueeze(1)).view(2, 49, -1)
        torch.testing.assert_close(positions.mean(1), loaded(images), rtol=1e-4, atol=1e-4)


def test_what_a_worker_loads_is_frozen_and_packed(script: bytes) -> None:
    loaded = read(script)
    for part in (loaded.features, loaded.head):
        assert list(part.parameters()) == list(part.buffers()) == []
    kinds = {node.kind() for node in loaded.features.graph.nodes()}
    assert "mkldnn::_linear_pointwise" in kinds
    assert not {kind for kind in kinds if "reorder" in kind or "prepack" in kind}


def test_a_file_works_without_our_loader_too(network: nn.Module, script: bytes) -> None:
    plain = torch.jit.load(io.BytesIO(script)).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert (plain(images) - network(images)).abs().max() < 1e-3


def test_a_file_without_the_parts_is_of_an_older_export() -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.zeros(1, 1)), buffer)
    with pytest.raises(ValueError, match="older export"):
        read(buffer.getvalue())


DIGEST = """
import hashlib, sys
from export import fused, network, weights
eager = network.build(weights.load(sys.argv[1]).state)
script = network.to_torchscript(network.Network(fused.Features(eager), eager).eval())
sys.stdout.write(hashlib.sha256(script).hexdigest())
"""


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes_in_any_folder_on_any_processor(checkpoint: Path, tmp_path: Path) -> None:
    older = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "default"}
    elsewhere = tmp_path / "elsewhere"
    for package in ("export", "handler"):
        shutil.copytree(ROOT / package, elsewhere / package)
    digests = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", DIGEST, checkpoint],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(folder), "PYTHONHASHSEED": seed, "TMPDIR": str(tmp_path)} | processor,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, folder, processor in (("1", ROOT, {}), ("2", elsewhere, older))
    ]
    assert len(digests[0]) == 64
    assert digests[0] == digests[1]


def test_the_file_names_nothing_of_this_machine(script: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(script)) as file:
        assert not [name for name in file.namelist() if str(ROOT).encode() in file.read(name)]


def test_exporting_leaves_the_eager_network_as_it_was(network: nn.Module, script: bytes) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == 7_978_856
    assert not network.training
