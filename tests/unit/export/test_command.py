"""The export command: one line for what went wrong, and nothing half done."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from export import ROOT, bundle, console
from export.__main__ import main
from export.console import CliError
from export.layer_errors import LayerError


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Export:
    """The command in this process, whose import of torch takes seconds, in a folder of its own."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch
        monkeypatch.chdir(folder)

    def __call__(self, *arguments: str | Path) -> Done:
        self.monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            console.run(main, "export")
        return Done(int(ended.value.code or 0), *self.capfd.readouterr())


@pytest.fixture
def export(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Export:
    return Export(capfd, monkeypatch, tmp_path)


def assert_one_line(done: Done) -> None:
    assert done.stderr.startswith("export: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert "Traceback" not in done.stderr + done.stdout


def test_help_lists_the_options(export: Export) -> None:
    done = export("--help")
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
def test_weights_that_cannot_be_used_are_told_in_one_line(
    export: Export, make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "bad.pth")
    done = export("--weights", "bad.pth", "--output", "out")
    assert done.returncode == 1
    assert_one_line(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_works_from_any_folder_and_warns_of_untrained_weights(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "export", "--weights", "untrained", "--output", "out"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
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


def test_a_folder_that_cannot_be_written_is_told_before_the_work(export: Export) -> None:
    done = export("--weights", "untrained", "--output", "/dev/full/x/y")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done)
    assert done.stderr.startswith("export: Not a directory: /dev/full")


def test_a_missing_class_index_is_told_in_one_line(export: Export, checkpoint: Path, tmp_path: Path) -> None:
    done = export("--weights", checkpoint, "--class-index", "none.json", "--output", "out")
    assert done.returncode == 1
    assert_one_line(done)
    assert done.stderr == "export: cannot read --class-index none.json: No such file or directory\n"
    assert done.stdout == ""  # before any work
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--precision", "int8"), "--precision int8 needs --calibration-images DIR"),
        (("--calibration-images", "."), "--calibration-images is only for int8; give --precision int8"),
        (("--report",), "--report is only for int8; give --precision int8 with it"),
        (("--precision", "int8", "--calibration-images", "none"), "no such folder: none; --calibration-images needs"),
    ],
)
def test_an_option_that_needs_another_says_which(export: Export, options: tuple[str, ...], reason: str) -> None:
    done = export(*options)
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done)
    assert done.stderr.startswith(f"export: {reason}")


def test_a_report_is_printed_also_for_a_network_that_is_refused(
    export: Export, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def make(*arguments: object) -> None:
        layer_measured = arguments[-1]
        assert callable(layer_measured)
        layer_measured(LayerError("conv0", (64, 3, 7, 7), 35.54, 0, 1.518, 0.00004))
        raise CliError("too many photos change their best class")

    monkeypatch.setattr(bundle, "make", make)
    int8 = ("--weights", "untrained", "--precision", "int8", "--calibration-images", tmp_path)
    done = export(*int8, "--report")
    assert done.returncode == 1
    assert "export: too many photos change their best class\n" in done.stderr
    *_, head, line = done.stdout.splitlines()
    assert head.split()[0] == "layer"
    assert line.split() == ["conv0", "64×3×7×7", "8", "35.5", "dB", "0.00", "to", "1.52", "0.004%"]
    assert "conv0" not in export(*int8).stdout
