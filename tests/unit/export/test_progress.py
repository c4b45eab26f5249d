"""Progress: one bar on a terminal, lines elsewhere, and nothing for those who asked for nothing."""

import io
import sys

import pytest
from rich.console import Console

from export import progress

SHARES = {"one": 1, "two": 3}


def work(steps: progress.Steps) -> None:
    steps.begin("one")
    steps.begin("two", parts=2)
    steps.advance()


def test_without_a_terminal_a_step_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Bar(SHARES) as steps:
        work(steps)
    assert capsys.readouterr() == ("one\ntwo\n", "")


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    work(progress.SILENT)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_one_bar_that_counts_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(progress, "err", Console(file=terminal, force_terminal=True))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.Bar(SHARES) as steps:
        work(steps)
        (task,) = steps._bar.tasks
        assert (task.completed, task.total, task.description) == (2.5, 4, "two")
    assert "two" in terminal.getvalue()
    assert capsys.readouterr() == ("", "")
