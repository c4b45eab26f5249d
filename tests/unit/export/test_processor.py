"""Processor: which precision --precision auto stands for, wherever it is an option."""

from collections.abc import Callable, Collection
from functools import wraps

import pytest
import typer

import export.__main__
from densenet.service import rollout, serve
from export import Precision, console, processor

CPUINFO = "processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16{}\n\nprocessor\t: 1\nflags\t\t: another\n"


def pretend(monkeypatch: pytest.MonkeyPatch, *, amx: bool) -> None:
    monkeypatch.setattr(processor, "cpuinfo", lambda: CPUINFO.format(" amx_bf16 amx_int8" if amx else ""))


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        (("avx2", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"), "bf16"),
        (("avx2", "avx512_vnni", "avx512_bf16"), "fp32"),
        (("avx512_vnni", "amx_tile", "amx_int8"), "fp32"),
        ((), "fp32"),
    ],
)
def test_bf16_is_chosen_where_the_processor_has_amx_for_it(flags: Collection[str], precision: str) -> None:
    assert processor.suitable_precision(flags) == precision


def test_the_flags_are_those_of_the_first_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, amx=True)
    assert processor.flags() == {"fpu", "avx2", "avx512_bf16", "amx_bf16", "amx_int8"}
    monkeypatch.setattr(processor, "cpuinfo", lambda: "")
    assert processor.flags() == set()


@pytest.mark.parametrize("command", [export.__main__.main, serve.main, rollout.main])
@pytest.mark.parametrize(("amx", "chosen", "reason"), [(True, "bf16", "has AMX"), (False, "fp32", "has no AMX")])
def test_every_command_gets_the_precision_that_auto_stands_for(
    command: Callable[..., None],
    amx: bool,
    chosen: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(monkeypatch, amx=amx)
    seen: list[object] = []

    @wraps(command)
    def stand_in(**options: object) -> None:
        seen.append(options["precision"])

    app = typer.Typer()
    app.command()(stand_in)
    app(["--precision", "auto"], standalone_mode=False)
    assert capsys.readouterr().err == f"--precision auto: {chosen}, since this processor {reason}\n"
    for precision in Precision:
        app(["--precision", precision.value], standalone_mode=False)
    assert seen == [Precision(chosen), *Precision]
    assert all(isinstance(precision, Precision) for precision in seen)
    assert capsys.readouterr().err == ""


def test_an_unknown_precision_is_answered_with_the_known() -> None:
    with pytest.raises(typer.BadParameter, match=r"^'fp64' is not one of 'auto', 'fp32', 'bf16', 'fp16', 'int8'.$"):
        console.precision("fp64")
