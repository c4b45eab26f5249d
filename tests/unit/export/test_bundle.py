"""Bundle: an export is whole and says where it comes from, or it is not there."""

import errno
import hashlib
import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import densenet121

from export import Precision, bundle, weights
from export.agreement import BATCHES
from export.console import CliError
from export.progress import Steps
from handler.ranking import ClassIndex

ROWS = [["n1", "cat"], ["n2", "dog"], ["n3", "Käse"]]
FILES = ["index_to_name.json", "model.pt", "model_card.json"]


@pytest.fixture(scope="module")
def three() -> nn.Module:
    torch.manual_seed(3)
    network: nn.Module = densenet121(num_classes=3).eval()
    return network


@pytest.fixture(scope="module")
def checkpoint_of_three(three: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("three") / "fine_tuned.pth"
    torch.save({"state_dict": three.state_dict(), "epoch": 4}, path)
    return path


@pytest.fixture(scope="module")
def written(checkpoint_of_three: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export of the three classes, made by way of everything that an export does."""
    folder = tmp_path_factory.mktemp("written")
    class_index = folder / "classes.json"
    class_index.write_text(json.dumps(ROWS), encoding="utf-8")
    loaded = weights.load(str(checkpoint_of_three))
    bundle.make(loaded, class_index, progress=Recorder()).write(folder / "not" / "yet")
    return folder / "not" / "yet"


class Recorder(Steps):
    """Checks that an export begins the steps that it names, in that order, and counts the parts of each."""

    begun: ClassVar[dict[str, tuple[int, int]]] = {}

    def begin(self, step: str, parts: int = 1) -> None:
        self.begun[step] = (parts, 0)

    def advance(self) -> None:
        step, (parts, done) = list(self.begun.items())[-1]
        self.begun[step] = (parts, done + 1)


def test_an_export_goes_through_the_steps_that_it_names(written: Path) -> None:
    assert [*Recorder.begun, bundle.WRITING] == list(bundle.steps(Precision.FP32))
    assert all(done in (0, parts) for parts, done in Recorder.begun.values())
    assert max(Recorder.begun.values()) == (BATCHES, BATCHES)


@pytest.fixture
def small() -> bundle.Bundle:
    return bundle.Bundle(b"network", {"architecture": "any"}, ClassIndex(("a", "b"), ("one", "two")), "")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_export_is_three_files(written: Path) -> None:
    assert sorted(contents(written)) == FILES


def test_the_exported_network_is_the_one_of_the_checkpoint(written: Path, three: nn.Module) -> None:
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = three(images)
        actual = torch.jit.load(str(written / "model.pt"))(images)
    assert ((actual - expected).abs().amax(dim=1) <= 1e-4 * expected.std(dim=1)).all()


def test_the_class_index_is_written_in_torchserves_form(written: Path) -> None:
    document = json.loads((written / "index_to_name.json").read_text(encoding="utf-8"))
    assert document == {"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "Käse"]}


def test_the_card_describes_network_weights_and_classes(written: Path, checkpoint_of_three: Path) -> None:
    card = json.loads((written / "model_card.json").read_text(encoding="utf-8"))
    assert card["network"]["sha256"] == hashlib.sha256((written / "model.pt").read_bytes()).hexdigest()
    assert card["weights"] == {
        "name": "fine_tuned.pth",
        "source": "fine_tuned.pth",
        "sha256": hashlib.sha256(checkpoint_of_three.read_bytes()).hexdigest(),
    }
    index = (written / "index_to_name.json").read_bytes()
    assert card["classes"] == {"count": 3, "sha256": hashlib.sha256(index).hexdigest()}
    assert card["input"] == {
        "shape": ["N", 3, 224, 224],
        "dtype": "float32",
        "resize": 255,
        "crop": 224,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert card["exported_with"] == {"torch": torch.__version__, "torchvision": torchvision.__version__}
    assert card["agreement"] == {"tolerance": 1e-4, "unit": "standard deviations of an image's logits"}


def test_an_export_of_1000_classes_needs_no_class_index(exported: Path, checkpoint: Path) -> None:
    card = json.loads((exported / "model_card.json").read_text(encoding="utf-8"))
    assert card["classes"]["count"] == 1000
    assert card["weights"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    index = json.loads((exported / "index_to_name.json").read_text(encoding="utf-8"))
    assert index["285"] == ["n02124075", "Egyptian_cat"]


def test_a_class_index_of_another_length_is_told_with_both_numbers(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    with pytest.raises(CliError, match=r"3 classes.* have 7"):
        bundle.class_index_for(path, outputs=7)


def test_without_a_class_index_other_than_1000_classes_ask_for_one(checkpoint_of_three: Path) -> None:
    with pytest.raises(CliError, match=r"3 classes.* 1000.*--class-index"):
        bundle.make(weights.load(str(checkpoint_of_three)), None)


def test_a_malformed_class_index_is_a_problem_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text("{\n\n", encoding="utf-8")
    with pytest.raises(CliError, match=r"classes\.json") as caught:
        bundle.class_index_for(path, outputs=3)
    assert "\n" not in str(caught.value)


def test_writing_again_replaces_an_older_export(small: bundle.Bundle, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text("old")
    small.write(tmp_path)
    assert contents(tmp_path) == {
        "model.pt": b"network",
        "model_card.json": b'{\n  "architecture": "any"\n}\n',
        "index_to_name.json": b'{\n"0": ["a", "one"],\n"1": ["b", "two"]\n}\n',
    }


@pytest.mark.parametrize("older", [True, False], ids=["over an older export", "anew"])
@pytest.mark.parametrize("fails_at", FILES)
def test_a_full_disk_leaves_the_folder_as_it_was(
    fails_at: str, older: bool, small: bundle.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if older:
        for name in FILES:
            (tmp_path / name).write_text(f"old {name}")
    before = contents(tmp_path)
    write_bytes = Path.write_bytes

    def fill(path: Path, data: bytes) -> int:
        if path.name == fails_at:
            write_bytes(path, data[:3])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left"):
        small.write(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("older", [True, False], ids=["over an older export", "anew"])
@pytest.mark.parametrize("moves", range(6))
@pytest.mark.parametrize("done", [True, False], ids=["after a move", "before a move"])
def test_an_interruption_leaves_the_folder_as_it_was(
    done: bool, moves: int, older: bool, small: bundle.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal arrives at any of the moves that put the new files in the older ones' place."""
    (tmp_path / "evaluation").mkdir()
    for name in FILES if older else ():
        (tmp_path / name).write_text(f"old {name}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    count, replace = 0, Path.replace

    def interrupt(path: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count - 1 == moves % (6 if older else 3):
            if done:
                replace(path, target)
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        small.write(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert (tmp_path / "evaluation").is_dir()


def test_a_folder_that_cannot_be_is_an_oserror(small: bundle.Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotADirectoryError):
        small.write(tmp_path / "file" / "folder")
    assert contents(tmp_path) == {"file": b"in the way"}


@pytest.mark.parametrize("blocked", FILES)
def test_a_target_that_cannot_be_replaced_leaves_the_older_files(
    blocked: str, small: bundle.Bundle, tmp_path: Path
) -> None:
    others = [name for name in FILES if name != blocked]
    for name in others:
        (tmp_path / name).write_text("old")
    (tmp_path / blocked).mkdir()
    with pytest.raises(CliError, match="is a folder"):
        small.write(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in others} == dict.fromkeys(others, "old")
