"""The record: one document with everything that was measured, on the disk after every step."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from densenet.benchmark.plan import Part
from export import console

FAILURES = "failures"


def tell(text: str) -> None:
    """A line for the person who waits: what begins, or what was just measured."""
    console.err.print(f"{datetime.now():%H:%M:%S}  {text}", markup=False)


class Record:
    """The document of a run: what it was about, a list of rows a part, and what failed.

    Whoever ends the run early keeps what had been measured by then.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        self.document: dict[str, Any] = {**about, "minutes": None, **{part.value: [] for part in Part}, FAILURES: []}

    @property
    def measured(self) -> bool:
        """Whether there is anything to report."""
        return any(self.document[key] for key in (*Part, FAILURES))

    def add(self, part: Part, **row: Any) -> None:
        """Keeps one row of a part."""
        self.document[part.value].append(row)
        self._write()

    def finish(self, minutes: float) -> None:
        """Notes how long it took, unless there is nothing: what an earlier run left then stays."""
        self.document["minutes"] = round(minutes, 1)
        if self.measured:
            self._write()

    @contextmanager
    def guarded(self, part: str, what: str) -> Iterator[None]:
        """A step whose failure becomes a line in the report instead of the end of the run."""
        try:
            yield
        except Exception as error:  # whatever a peer, a conversion or the load generator leads to
            reason = " ".join(f"{error}".split()) or type(error).__name__
            self.document[FAILURES].append({"part": part, "what": what, "reason": reason[:300]})
            self._write()
            tell(f"{part}: {what} failed: {reason}")

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.document, indent=1, allow_nan=False) + "\n")
        partial.replace(self._path)
