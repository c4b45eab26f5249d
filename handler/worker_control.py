"""Let an operator's commands control workers, through files in a folder of the service.

TorchServe kills workers in the middle of a request when it scales down, resets all connections when it stops, and does
not report what its workers are doing. Therefore:

    hold-TOKEN/     while it exists, a worker that receives a request with this token, in a batch of its own, creates a
                    file with its process id there and pauses: it has answered all earlier requests
    draining        while it exists, workers refuse every request but the one for the model card, because the
                    service is about to stop
    draining-NAME   the same for one version, which is about to be unregistered
    workers/PID     the worker's answered requests, and the start of its current batch: _RECORD, written in place

scripts/serve creates the folder and passes it to the workers in an environment variable. Without it, such as when the
archive runs in another TorchServe, the worker ignores all of this.
"""

import mmap
import os
import re
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

VARIABLE = "DENSENET_CONTROL"
PAUSE_HEADER = "X-Densenet-Hold"  # request header with the token; the lookup is case-sensitive
PAUSE_SECONDS = 120.0  # maximum pause, in case the command that paused the worker has died
_POLL = 0.005
# Seconds; a batch that began earlier is that of a worker that was killed, and another process has its id by now.
_LONGEST = 600.0
_TOKEN = re.compile(r"[0-9a-f]{32}")
_RECORD = struct.Struct("=Qd")  # number of answered requests; time.time() when the current batch began, or 0


class Control:
    """The worker's side of the folder.

    folder: None to disable control. version: the version of the model that the worker serves.
    """

    def __init__(self, folder: Path | None, version: str = "") -> None:
        self._folder = folder
        self._draining_files = [] if folder is None else [draining_file(folder), draining_file(folder, version)]
        self._record = None if folder is None else _own_record(folder)
        self._others: dict[str, mmap.mmap] = {}  # other workers' records, by process id
        self._requests = 0

    @classmethod
    def from_environment(cls, version: str) -> "Control":
        """Use the folder that scripts/serve passed, if it still exists."""
        folder = Path(os.environ.get(VARIABLE, "/nonexistent"))
        return cls(folder if folder.is_dir() else None, version)

    @property
    def draining(self) -> bool:
        """Return whether the worker must reject every request."""
        return any(path.exists() for path in self._draining_files)

    def pause(self, headers: Mapping[str, object]) -> bool:
        """Pause this worker until the folder is gone, if a request's raw headers have its token.

        Return whether it paused.
        """
        token = headers.get(PAUSE_HEADER)
        if self._folder is None or not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return False
        folder = self._folder / f"hold-{token}"
        try:
            (folder / str(os.getpid())).touch()
        except OSError:  # there is no such folder: any client could send the header
            return False
        deadline = time.monotonic() + PAUSE_SECONDS
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(_POLL)
        with suppress(OSError):  # the worker no longer counts as paused
            (folder / str(os.getpid())).unlink()
        return True

    @property
    def is_recorded(self) -> bool:
        """Return whether this worker has a record, from which others see that it is busy."""
        return self._record is not None

    def count_busy(self) -> int:
        """Return how many of the service's workers compute a batch, of all versions; at least 1, for this one."""
        if self._folder is None:
            return 1
        own, busy = str(os.getpid()), 1
        with suppress(OSError):
            for entry in os.scandir(self._folder / "workers"):
                busy += entry.name != own and self._is_busy(Path(entry.path))
        return busy

    def _is_busy(self, path: Path) -> bool:
        with suppress(OSError, ValueError, struct.error):
            pid = path.name
            if pid not in self._others:
                self._others[pid] = _map(path)
            _, since = _RECORD.unpack_from(self._others[pid])
            if not 0 < since <= time.time() <= since + _LONGEST:
                return False
            os.kill(int(pid), 0)  # the record of a worker that was killed stays
            return True
        return False

    def begin(self) -> None:
        """Record that a batch begins."""
        self._write(time.time())

    def end(self, requests: int) -> None:
        """Record that the batch has been answered. requests: how many it had."""
        self._requests += requests
        self._write(0.0)

    def _write(self, since: float) -> None:
        if self._record is not None:
            _RECORD.pack_into(self._record, 0, self._requests, since)


def draining_file(folder: Path, version: str = "") -> Path:
    """Return the file that makes the workers of a version, or of all versions, reject every request."""
    return folder / (f"draining-{quote(version, safe='')}" if version else "draining")


def read_record(folder: Path, pid: int) -> tuple[int, float]:
    """Return how many requests a worker has answered, and time.time() when its current batch began, or 0 if idle.

    Raises:
        OSError, struct.error: the worker has no valid record.
    """
    requests, since = _RECORD.unpack((folder / "workers" / str(pid)).read_bytes())
    return requests, since


def _own_record(folder: Path) -> mmap.mmap | None:
    """Create this worker's record. Return None if it cannot be written: workers must start on a full disk, too."""
    path = folder / "workers" / str(os.getpid())
    try:
        path.parent.mkdir(exist_ok=True)
        # Allocate the page now: writing through the map with a full disk would kill the worker.
        path.unlink(missing_ok=True)  # others may have mapped the one of a dead worker with the same process id
        path.write_bytes(bytes(_RECORD.size))
        return _map(path)
    except OSError:
        return None


def _map(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), _RECORD.size)
