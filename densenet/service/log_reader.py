"""Read what a service writes to its logs from now on."""

from collections.abc import Iterable
from pathlib import Path


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
