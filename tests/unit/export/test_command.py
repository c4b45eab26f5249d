"""The export command: one line for what went wrong, and nothing half done."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export import ROOT

pytestmark = pytest.mark.slow


def export(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "export", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def assert_one_line(done: subprocess.CompletedProcess[str]) -> None:
    assert done.stderr.startswith("export: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert "Traceback" not in done.stderr + done.stdout


def test_help_lists_the_options(tmp_path: Path) -> None:
    done = export("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(option in done.stdout for option in ("--weights", "--class-index", "--output"))


def no_file(path: Path) -> None:
    pass


def no_checkpoint(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


def torchscript(path: Path) -> None:
    with path.open("wb") as file:
        torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), file)


def another_network(path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1).state_dict(), path)


@pytest.mark.parametrize("make", [no_file, no_checkpoint, torchscript, another_network])
def test_weights_that_cannot_be_used_are_told_in_one_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "bad.pth")
    done = export("--weights", "bad.pth", "--output", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert_one_line(done)
    assert not (tmp_path / "out").exists()


def test_it_works_from_any_folder_and_warns_of_untrained_weights(tmp_path: Path) -> None:
    done = export("--weights", "untrained", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == "WARNING: these weights are untrained; every answer will be meaningless\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index_to_name.json",
        "model.pt",
        "model_card.json",
    ]
    assert json.loads((tmp_path / "out" / "model_card.json").read_text())["weights"]["name"] == "untrained"
    assert "out/model.pt" in done.stdout
    assert "1000 classes" in done.stdout


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    done = export("--weights", "untrained", "--output", "/dev/full/x/y", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done)
    assert done.stderr.startswith("export: Not a directory: /dev/full")


def test_a_missing_class_index_is_told_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    done = export("--weights", checkpoint, "--class-index", "none.json", "--output", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert_one_line(done)
    assert "none.json" in done.stderr
    assert not (tmp_path / "out").exists()
