"""The archives that a service has had in service, so that it keeps its own and can return to an earlier one.

In the service's folder, history.json lists them, and archives/ has a copy of each, named by its digest. They are copies
rather than hard links, since a program that writes into an existing file, as `cp` does, changes all of its names.
"""

import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from export.archive import DEFAULT_VERSION, read_card, read_version
from export.console import CliError

LIMIT = "DENSENET_KEPT_ARCHIVES"  # environment variable: how many archives a service keeps, with the one that serves
_DEFAULT_LIMIT = 5  # 30 MB each
_FILE = "history.json"
_ARCHIVES = "archives"
_EARLIER_COPY = "serving.mar"  # the archive in service, as versions without a history kept it
_EARLIER_RECORD = "rollout.json"
_SHORT = 12  # digits of a digest in file names and messages


@dataclass(frozen=True)
class Entry:
    """An archive that is or was in service.

    Attributes:
        digest: the archive's SHA-256.
        weights: the name of its weights.
        since: when it was put into service, in seconds since 1970.
        withdrawn: whether the service has returned from it to an earlier one.
    """

    digest: str
    version: str
    weights: str
    precision: str
    since: float
    withdrawn: bool = False

    def __str__(self) -> str:
        return f"version {self.version} (weights {self.weights}, {self.precision}, sha256 {self.short})"

    @property
    def short(self) -> str:
        """The beginning of the digest."""
        return self.digest[:_SHORT]


@dataclass(frozen=True)
class History:
    """A service's archives in the order in which they were put into service, each once."""

    entries: tuple[Entry, ...] = ()

    @property
    def serving(self) -> Entry | None:
        """The archive in service; None before the first start."""
        return self._not_withdrawn[-1] if self._not_withdrawn else None

    @property
    def previous(self) -> Entry | None:
        """The archive that a rollback returns to."""
        return self._not_withdrawn[-2] if len(self._not_withdrawn) > 1 else None

    def with_serving(self, entry: Entry) -> "History":
        """Put an archive into service. Whoever returns to an earlier one withdraws those that came after it."""
        digests = [earlier.digest for earlier in self._not_withdrawn]
        if entry.digest in digests:
            later = digests[digests.index(entry.digest) + 1 :]
            return History(tuple(replace(e, withdrawn=e.withdrawn or e.digest in later) for e in self.entries))
        return History((*(earlier for earlier in self.entries if earlier.digest != entry.digest), entry))

    def limited(self, count: int) -> "History":
        """Keep so many archives: those that a rollback can reach before withdrawn ones, and newer before older ones."""
        withdrawn = [entry for entry in self.entries if entry.withdrawn]
        kept = [*reversed(self._not_withdrawn), *reversed(withdrawn)][:count]
        return History(tuple(entry for entry in self.entries if entry in kept))

    def next_version(self) -> str:
        """Return a version for the next archive: the last number of the one in service counted up until it is free."""
        version = self.serving.version if self.serving else DEFAULT_VERSION
        while version in {entry.version for entry in self.entries}:
            number = re.search(r"\d*$", version)
            version = f"{version[: number.start()]}{int(number[0]) + 1}" if number and number[0] else f"{version}.1"
        return version

    @property
    def _not_withdrawn(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.withdrawn]


def load(folder: Path) -> History:
    """Read the history in a service's folder; it is empty before the first start.

    Raises:
        CliError: if the file is damaged or of another version of this program.
    """
    path = folder / _FILE
    try:
        return History(tuple(Entry(**entry) for entry in json.loads(path.read_text())["entries"]))
    except FileNotFoundError:
        return History()
    except (ValueError, KeyError, TypeError) as error:
        raise CliError(
            f"{path} is damaged, or of another version of this program; remove it to begin a new history"
        ) from error


def adopt(folder: Path) -> History:
    """Read the history, or begin it with the archive that a version without histories has put into service."""
    history, copy = load(folder), folder / _EARLIER_COPY
    if history.serving is None and copy.exists():
        history = history.with_serving(keep(folder, copy))
        save(folder, history)
    return history


def save(folder: Path, history: History) -> None:
    """Write the history, without the entries beyond the limit: all of it, or nothing if this raises."""
    entries = [asdict(entry) for entry in history.limited(_limit()).entries]
    partial = folder / f"{_FILE}.partial"
    partial.write_text(json.dumps({"entries": entries}, indent=2))
    partial.replace(folder / _FILE)


def clean(folder: Path) -> None:
    """Remove the copies of archives that the history does not name, and what versions without histories left."""
    named = {_path(folder, entry.digest) for entry in load(folder).entries}
    if named:
        for path in {*(folder / _ARCHIVES).glob("*"), folder / _EARLIER_COPY, folder / _EARLIER_RECORD} - named:
            path.unlink(missing_ok=True)


def keep(folder: Path, archive: Path) -> Entry:
    """Copy an archive to the service's folder, before it is put into service.

    Raises:
        CliError: if it cannot be read, or the limit is not a number.
    """
    _limit()
    card = read_card(archive)
    entry = Entry(
        digest=digest(archive),
        version=read_version(archive),
        weights=card["weights"]["name"],
        precision=card["precision"],
        since=time.time(),
    )
    path = _path(folder, entry.digest)
    if not (path.exists() and digest(path) == entry.digest):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(archive, partial := path.with_suffix(".partial"))
        partial.replace(path)
    return entry


def was_tried(folder: Path, digest: str) -> bool:
    """Return whether a start with an archive has failed since the last one that succeeded."""
    return digest not in {entry.digest for entry in load(folder).entries} and _path(folder, digest).exists()


def file(folder: Path, entry: Entry) -> Path:
    """Return the path of an archive that the service has kept.

    Raises:
        CliError: if it is missing or damaged.
    """
    path = _path(folder, entry.digest)
    if not (path.exists() and digest(path) == entry.digest):
        raise CliError(f"the service's copy of {entry} is missing or damaged: {path}")
    return path


def digest(archive: Path) -> str:
    """Return a file's SHA-256."""
    with archive.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _path(folder: Path, digest: str) -> Path:
    return folder / _ARCHIVES / f"{digest[:_SHORT]}.mar"


def _limit() -> int:
    value = os.environ.get(LIMIT) or str(_DEFAULT_LIMIT)
    if not value.isdecimal() or int(value) < 2:
        raise CliError(f"{LIMIT} must be a whole number of at least 2, not {value}")
    return int(value)
