"""Tables in Markdown and on the terminal."""

import pytest

from densenet import tables


def test_markdown_has_a_line_for_the_head_and_each_row() -> None:
    rows = (("a|b", 1), (None, 2.5))
    assert tables.markdown(("", "n"), rows) == "|  | n |\n| --- | --- |\n| a/b | 1 |\n| None | 2.5 |"


def test_the_terminal_has_aligned_columns_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(("name", "MB"), (("[red]x[/red]", 5), ("y", 1234)), numbers=("MB",), title="Files")
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.strip() == "Files"
    assert [line.rstrip() for line in lines] == ["name            MB", "[red]x[/red]     5", "y             1234"]
