"""Read what a service writes to its logs from now on."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


class Tail:
    """Reads the named logs of a folder from their current end, and any other log from its beginning."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._folder = folder
        self._ends = {name: self._size(name) for name in names}

    def new(self, name: str) -> str:
        """Return the text that was written to a log since this object was made."""
        path = self._folder / name
        if not path.exists():
            return ""
        with path.open("rb") as log:
            log.seek(self._ends.get(name, 0))
            return log.read().decode("utf-8", "replace")

    def _size(self, name: str) -> int:
        path = self._folder / name
        return path.stat().st_size if path.exists() else 0


class Follower:
    """Reads the lines that are appended to a log, from its current end on; after a rotation, those of the new file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log: BinaryIO | None = None
        with suppress(FileNotFoundError):
            self._log = path.open("rb")
            self._log.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the log."""
        if self._log:
            self._log.close()

    def lines(self) -> Iterator[str]:
        """Return the whole lines that were written since the last call."""
        while True:
            if self._log:
                while (line := self._log.readline()).endswith(b"\n"):
                    yield line.decode("utf-8", "replace")
                self._log.seek(-len(line), os.SEEK_CUR)  # half a line
            try:
                if self._log and os.path.samestat(self._path.stat(), os.fstat(self._log.fileno())):
                    return
                rotated = self._path.open("rb")
            except FileNotFoundError:
                return
            self.close()
            self._log = rotated
