"""Progress: the steps of an export, as one bar on a terminal, else as a line for each."""

import sys
from collections.abc import Mapping

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from export.console import err, out


class Steps:
    """The steps of some work, not shown."""

    def begin(self, step: str, parts: int = 1) -> None:
        """Begin a step, which ends the one before. parts: how often `advance` will be called."""

    def advance(self) -> None:
        """Count one part of the step as done."""


SILENT = Steps()


class Bar(Steps):
    """One bar for all steps on standard error; if that is no terminal, a line for each step on standard output.

    Use it as a context manager; the bar disappears at the end.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        """shares: the steps in their order, with about the share of the time that each takes."""
        self._shares = dict(shares)
        self._part = 0.0
        columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=err, transient=True, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("", total=sum(shares.values()))

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, step: str, parts: int = 1) -> None:
        """See Steps."""
        names = list(self._shares)
        before = sum(self._shares[name] for name in names[: names.index(step)])
        self._part = self._shares[step] / parts
        self._bar.update(self._task, completed=before, description=step)
        if self._bar.disable:
            out.print(step)

    def advance(self) -> None:
        """See Steps."""
        self._bar.advance(self._task, self._part)
