"""What an operator's commands and a worker tell each other, through a folder that is the service's own.

TorchServe stops a worker in the middle of a request when it scales down, resets every connection when it stops, and
tells nobody what its workers are doing. So:

    hold-TOKEN/     while it exists, a worker that is asked alone, with this token, puts a file with its process id
                    there and works on nothing else: every request that came before has then been answered
    draining        while it exists, every request is refused: the service is about to stop
    draining-NAME   the same for one version: it is about to be withdrawn
    workers/PID     what each worker has done and since when it works: _RECORD, written in place

scripts/serve makes the folder and names it in the environment of the workers. A worker without one, of an archive in
somebody else's TorchServe, has nobody to listen to.
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
HOLD = "X-Densenet-Hold"  # the request header with the token, in this spelling
HOLD_SECONDS = 120.0  # after them a worker goes on, should the command that holds it be gone
_POLL = 0.005
_TOKEN = re.compile(r"[0-9a-f]{32}")
_RECORD = struct.Struct("=Qd")  # requests answered, time.time() when the present batch began or 0


class Control:
    """A worker's side of the folder. folder: None for nothing to listen to. version: of the model it serves."""

    def __init__(self, folder: Path | None, version: str = "") -> None:
        self._folder = folder
        self._refusing = [] if folder is None else [refusing(folder), refusing(folder, version)]
        self._record = None if folder is None else _own_record(folder)
        self._requests = 0

    @classmethod
    def from_environment(cls, version: str) -> "Control":
        """The folder that scripts/serve named, where it is still there."""
        folder = Path(os.environ.get(VARIABLE, "/nonexistent"))
        return cls(folder if folder.is_dir() else None, version)

    @property
    def draining(self) -> bool:
        """Whether every request is to be refused."""
        return any(path.exists() for path in self._refusing)

    def hold(self, headers: Mapping[str, object]) -> bool:
        """Holds this worker if a request's headers, as TorchServe has them, carry the token of a hold there is."""
        token = headers.get(HOLD)
        if self._folder is None or not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return False
        place = self._folder / f"hold-{token}"
        try:
            (place / str(os.getpid())).touch()
        except OSError:  # no such hold: anybody may send a header
            return False
        deadline = time.monotonic() + HOLD_SECONDS
        while place.exists() and time.monotonic() < deadline:
            time.sleep(_POLL)
        with suppress(OSError):  # so that nobody takes it for held any more
            (place / str(os.getpid())).unlink()
        return True

    def begin(self) -> None:
        """A batch begins."""
        self._write(time.time())

    def end(self, requests: int) -> None:
        """It has been answered."""
        self._requests += requests
        self._write(0.0)

    def _write(self, since: float) -> None:
        if self._record is not None:
            _RECORD.pack_into(self._record, 0, self._requests, since)


def refusing(folder: Path, version: str = "") -> Path:
    """The file that has the workers of a version, or of all, refuse every request."""
    return folder / (f"draining-{quote(version, safe='')}" if version else "draining")


def read_record(folder: Path, pid: int) -> tuple[int, float]:
    """A worker's requests so far, and the time (time.time()) since when it works, 0 for idle.

    Raises OSError or struct.error where there is none of this worker.
    """
    requests, since = _RECORD.unpack((folder / "workers" / str(pid)).read_bytes())
    return requests, since


def _own_record(folder: Path) -> mmap.mmap | None:
    """None where it cannot be written: a worker has to start on a full disk, too."""
    path = folder / "workers" / str(os.getpid())
    try:
        path.parent.mkdir(exist_ok=True)
        # Its page is taken now: writing through the map to one that cannot be had would end the worker.
        path.write_bytes(bytes(_RECORD.size))
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), _RECORD.size)
    except OSError:
        return None
