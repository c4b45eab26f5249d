"""Weights: every form a checkpoint comes in, and everything that only looks like one."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import densenet121

from export import imagenet, weights
from export.console import CliError
from export.network import build

TENSORS = {"a.weight": torch.tensor([[1.0, -2.0], [3.5, 0.0]]), "a.bias": torch.tensor([0.25, -1.0])}


def assert_same(state: object, expected: dict[str, Tensor]) -> None:
    assert isinstance(state, dict)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def torch_file(folder: Path, content: object, name: str = "weights.pth") -> Path:
    path = folder / name
    torch.save(content, path)
    return path


def with_module_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 7},
        {"model_state_dict": TENSORS, "optimizer_state_dict": {"lr": 0.1}},
        {"model": TENSORS, "args": None},
        with_module_prefix(TENSORS),
        {"state_dict": with_module_prefix(TENSORS)},
    ],
    ids=["plain", "state_dict", "model_state_dict", "model", "module prefix", "both"],
)
def test_a_pth_file_is_read_whatever_wraps_it(content: object, tmp_path: Path) -> None:
    assert_same(weights.load(str(torch_file(tmp_path, content))).state, TENSORS)


def test_a_safetensors_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(with_module_prefix(TENSORS), path)
    assert_same(weights.load(str(path)).state, TENSORS)


def test_a_file_is_named_and_identified_by_its_digest(tmp_path: Path) -> None:
    path = torch_file(tmp_path, TENSORS, "mine.pth")
    loaded = weights.load(str(path))
    assert (loaded.name, loaded.source) == ("mine.pth", "mine.pth")
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_dotted_names_of_the_published_file_make_the_same_network(network: nn.Module, tmp_path: Path) -> None:
    dotted = {
        re.sub(r"(denselayer\d+)\.(norm|conv)([12])\.", r"\1.\2.\3.", name): tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.running_mean" in dotted
    assert "features.denseblock4.denselayer16.conv.2.weight" in dotted
    loaded = build(weights.load(str(torch_file(tmp_path, dotted))).state)
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(loaded(image), network(image))


def test_modern_names_are_left_as_they_are(network: nn.Module, checkpoint: Path) -> None:
    assert_same(weights.load(str(checkpoint)).state, dict(network.state_dict()))


class Program:
    """Creates a file when it is unpickled by a reader that executes what it reads."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_program_is_refused_and_never_run(zipped: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "weights.pth"
    torch.save({"a": Program(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CliError, match=re.escape(str(path))):
        weights.load(str(path))
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the program of this test does nothing, so the test shows nothing"


def pickled_module(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


def torchscript(path: Path) -> None:
    with path.open("wb") as file:
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), file)


def random_bytes(path: Path) -> None:
    path.write_bytes(torch.randint(0, 256, (5000,), dtype=torch.uint8).numpy().tobytes())


def cut_short(path: Path) -> None:
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-300])


def cut_short_safetensors(path: Path) -> None:
    safetensors.torch.save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-3])


def safetensors_of_a_type_torch_cannot_hold(path: Path) -> None:
    header = b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("weights.pth", pickled_module),
        ("weights.pth", torchscript),
        ("weights.pth", random_bytes),
        ("weights.pth", cut_short),
        ("weights.pth", Path.touch),
        ("weights.pth", Path.mkdir),
        ("weights.pth", lambda path: None),
        ("weights.pth", lambda path: path.write_text("<html>\n<body>404</body>\n</html>\n")),
        ("weights.pth", lambda path: torch.save({"a": 1, "b": "two"}, path)),
        ("weights.pth", lambda path: torch.save([torch.zeros(1)], path)),
        ("weights.pth", lambda path: torch.save(torch.zeros(3), path)),
        ("weights.pth", lambda path: torch.save({"state_dict": {"a": torch.zeros(1), "b": 3}}, path)),
        ("weights.safetensors", random_bytes),
        ("weights.safetensors", cut_short_safetensors),
        ("weights.safetensors", Path.touch),
        ("weights.safetensors", lambda path: torch.save(TENSORS, path)),
        ("weights.safetensors", safetensors_of_a_type_torch_cannot_hold),
    ],
    ids=[
        *("pickled module", "torchscript", "random bytes", "cut short", "empty", "folder", "missing", "html"),
        *("numbers and words", "list", "one tensor", "a number among tensors"),
        *("random safetensors", "cut safetensors", "empty safetensors", "pth named safetensors", "4-bit safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(
    name: str, make: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(CliError) as caught:
        weights.load(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.filterwarnings("always")
def test_a_torchscript_file_is_refused_without_a_warning_of_torch(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "weights.pth"
    torchscript(path)
    recwarn.clear()
    with pytest.raises(CliError):
        weights.load(str(path))
    assert [str(warning.message) for warning in recwarn] == []


def test_untrained_weights_are_torchvisions_own_and_always_the_same() -> None:
    torch.manual_seed(0)
    expected = dict(densenet121().state_dict())
    torch.manual_seed(123)
    first, second = weights.load("untrained"), weights.load("untrained")
    assert (first.name, first.sha256) == ("untrained", None)
    assert_same(first.state, expected)
    assert_same(second.state, expected)


def test_imagenet_is_looked_for_where_it_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = weights.Weights("IMAGENET1K_V1", "", None, {})
    monkeypatch.setattr(imagenet, "load", lambda: loaded)
    assert weights.load("imagenet") is loaded
