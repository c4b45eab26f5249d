"""Hardware: what a machine lacks is told before anything is exported or served."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path

import pytest
import torch

from export import Precision, bundle, weights
from export.console import CliError
from handler import hardware
from handler.entry import Classifier
from tests.unit.handler.test_entry import make_context


def pretend(monkeypatch: pytest.MonkeyPatch, *, instructions: Collection[str] = (), gpu: bool = False) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True) | {"avx2": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)


def test_torch_knows_the_instructions_by_these_names() -> None:
    known = torch.cpu.get_capabilities()
    if known["architecture"] != "x86_64":
        pytest.skip("another architecture has other instructions")
    assert all(name in known for names in hardware._INSTRUCTIONS.values() for name in names)


@pytest.mark.parametrize(
    ("precision", "instructions", "gpu"),
    [
        ("fp32", (), False),
        ("int8", ("avx512_vnni",), False),
        ("int8", ("avx_vnni",), False),
        ("bf16", ("amx_bf16",), False),
        ("bf16", ("avx512_bf16",), False),
        ("fp16", (), True),
    ],
)
def test_what_there_is_will_do(
    precision: str, instructions: Collection[str], gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, instructions=instructions, gpu=gpu)
    hardware.check(precision)


@pytest.mark.parametrize(
    ("precision", "missing"), [("int8", "VNNI"), ("bf16", "AMX or AVX-512 BF16"), ("fp16", "NVIDIA GPU")]
)
def test_what_is_missing_is_named(precision: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(ValueError, match=f"{precision} needs .*{missing}.* use fp32, which runs everywhere"):
        hardware.check(precision)


def test_onednns_operators_are_there_if_torch_was_built_with_it() -> None:
    assert hardware.has_onednn() == torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_capable_processor_does_not_make_up_for_a_build_without_onednn(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, instructions=("avx512_vnni", "avx512_bf16"), gpu=True)
    monkeypatch.setattr(hardware, "has_onednn", lambda: False)
    with pytest.raises(ValueError, match=f"^{precision} needs oneDNN, which this build of torch does not have; use"):
        hardware.check(precision)
    for other in ("fp32", "fp16"):
        hardware.check(other)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
def test_an_export_is_refused_at_once(precision: Precision, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(CliError, match=f"{precision} needs"):
        bundle.make(weights.load(str(checkpoint)), None, precision)


def test_a_worker_does_not_start_on_a_machine_that_would_answer_wrongly(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(exported, tmp_path / "exported")
    card = json.loads((folder / "model_card.json").read_text()) | {"precision": "int8"}
    (folder / "model_card.json").write_text(json.dumps(card))
    pretend(monkeypatch, gpu=True)
    with pytest.raises(ValueError, match="int8 needs a processor with VNNI"):
        Classifier().initialize(make_context(folder))


def test_only_fp16_runs_on_a_gpu_and_on_the_one_that_the_worker_was_given() -> None:
    assert [hardware.device(precision, 3).type for precision in ("fp32", "bf16", "int8")] == ["cpu"] * 3
    assert hardware.device("fp16", 3) == torch.device("cuda", 3)
    assert hardware.device("fp16") == torch.device("cuda", 0)
