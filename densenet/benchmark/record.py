"""The record: one document with all measurements, saved after every step."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from densenet.benchmark.plan import Part
from export import console

OVERHEAD = "overhead"  # rows of the part network
FAILURES = "failures"


def log(text: str) -> None:
    """Print a progress line to stderr with the time."""
    console.err.print(f"{datetime.now():%H:%M:%S}  {text}", markup=False)


class Record:
    """The document of a run: its description, a list of rows per part and of overhead, and the failures.

    An interrupted run keeps the measurements made so far.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        rows: dict[str, list[Any]] = {name: [] for name in (*(part.value for part in Part), OVERHEAD, FAILURES)}
        self.document: dict[str, Any] = {**about, "minutes": None, **rows}

    @property
    def measured(self) -> bool:
        """Return whether there is anything to report."""
        return any(self.document[key] for key in (*Part, OVERHEAD, FAILURES))

    def add(self, part: str, **row: Any) -> None:
        """Add a row to a part, or to OVERHEAD, and save the document."""
        self.document[part].append(row)
        self._write()

    def finish(self, minutes: float) -> None:
        """Record the duration. Without measurements save nothing, so that an earlier run's file stays."""
        self.document["minutes"] = round(minutes, 1)
        if self.measured:
            self._write()

    @contextmanager
    def guarded(self, part: str, what: str) -> Iterator[None]:
        """Run a step whose failure is recorded in the report and does not end the run."""
        try:
            yield
        except Exception as error:  # baselines, conversions and the load generator raise many types
            reason = " ".join(f"{error}".split()) or type(error).__name__
            self.document[FAILURES].append({"part": part, "what": what, "reason": reason[:300]})
            self._write()
            log(f"{part}: {what} failed: {reason}")

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.document, indent=1, allow_nan=False) + "\n")
        partial.replace(self._path)
