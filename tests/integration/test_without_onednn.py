"""Export, archive and workers on a torch without oneDNN's operators, as its builds for macOS are.

tests/without_onednn makes a process's torch such a build.
"""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import requests
import torch
from torch import nn

from densenet.service import temporary_instance, worker_launcher
from export import ROOT
from export.console import CliError
from handler import scoring
from tests.integration.conftest import build_archive
from tests.integration.truth import PHOTOS, preprocessed, truths

WITHOUT = ROOT / "tests" / "without_onednn"


@pytest.fixture(scope="module")
def exported_without(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that such a build's export wrote."""
    folder = tmp_path_factory.mktemp("exported_without")
    command = [sys.executable, "-m", "export", "--weights", str(checkpoint), "--output", str(folder)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(WITHOUT)}, check=True)
    return folder


def start_workers_without(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let services that start from now on run their workers on such a build."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{WITHOUT}:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    # The fork server would import torch without that path.
    monkeypatch.setenv(worker_launcher.VARIABLE, "none")


def test_its_archive_is_served_and_answers_as_the_eager_network(
    network: nn.Module, exported_without: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = build_archive(exported_without, tmp_path, workers=1)
    start_workers_without(monkeypatch, tmp_path)
    with temporary_instance.serving(archive, tmp_path) as service:
        files = {f"photo {i}": photo for i, photo in enumerate(PHOTOS)}
        results = requests.post(service.url, files=files, data={"top_k": "1000"}, timeout=60).json()["results"]
    for result, truth in zip(results, truths(network), strict=True):
        expected = dict(zip(truth.ids, truth.probabilities, strict=True))
        actual = {row["class_id"]: row["probability"] for row in result["predictions"]}
        assert actual == pytest.approx(expected, abs=1e-4)


def test_its_archive_loads_on_a_build_with_onednn(network: nn.Module, exported_without: Path) -> None:
    content = (exported_without / "model.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert not any(b"mkldnn" in file.read(name) for name in file.namelist() if name.endswith(".py"))
    batch = torch.stack([preprocessed(photo) for photo in PHOTOS])
    with torch.inference_mode():
        expected, actual = network(batch), scoring.read(content)(batch)
    assert ((actual - expected).abs().amax(1) <= 1e-4 * expected.std(1)).all()


def test_an_archive_with_onednns_operators_is_refused_there_in_one_line(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = build_archive(exported, tmp_path, workers=1)
    start_workers_without(monkeypatch, tmp_path)
    with pytest.raises(CliError) as failed, temporary_instance.serving(archive, tmp_path):
        pass
    message = str(failed.value)
    assert "ValueError: this build of torch lacks mkldnn::" in message
    assert message.endswith("export it on this machine: scripts/serve --rebuild, or python -m export")
