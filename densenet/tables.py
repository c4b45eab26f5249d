"""Tables: in Markdown for the reports, and on the terminal."""

from collections.abc import Collection, Iterable, Sequence

from rich.table import Column, Table
from rich.text import Text

from export import console

Rows = Iterable[Sequence[object]]


def markdown(head: Sequence[object], rows: Rows) -> str:
    """Return a table in Markdown. Bars in the cells become slashes, since they would end a cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


def show(head: Sequence[str], rows: Rows, *, numbers: Collection[str] = (), title: str | None = None) -> None:
    """Print a table on the terminal. numbers: the columns to align to the right."""
    columns = (Column(name, justify="right" if name in numbers else "left") for name in head)
    table = Table(*columns, title=title, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.out.print(table)
