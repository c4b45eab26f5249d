"""Check which replicas are healthy, so that the gateway prefers those whose workers answer.

nginx detects only failures, and a TorchServe that is still loading its model does not fail: it accepts requests and
lets them wait. So every second the gateway sends each replica a health check, which passes through the queue to a
worker.
"""

import http.client
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_INTERVAL = 1.0  # seconds between two checks
_TIMEOUT = 5.0  # seconds for an answer; a full queue of 100 takes about four on two cores
_HEADERS = {"Accept": "application/health+json"}


class HealthChecker:
    """Checks replicas through their sockets, each in its own thread, for as long as this process lives."""

    def __init__(self, sockets: Sequence[Path]) -> None:
        self._passing = dict.fromkeys(sockets, True)
        for path in sockets if len(sockets) > 1 else ():  # a single replica gets all requests anyway
            threading.Thread(target=self._check_repeatedly, args=(path,), daemon=True).start()

    def unhealthy(self) -> frozenset[Path]:
        """Return the replicas to use only after all others; none if all fail, since any may recover first."""
        return failing(dict(self._passing))

    def _check_repeatedly(self, path: Path) -> None:
        while True:
            time.sleep(_INTERVAL)
            self._passing[path] = is_healthy(path)


def failing(passing: Mapping[Path, bool]) -> frozenset[Path]:
    """Return the replicas that fail while another one passes."""
    failed = frozenset(path for path, passed in passing.items() if not passed)
    return failed if len(failed) < len(passing) else frozenset()


def is_healthy(path: Path) -> bool:
    """Return whether a worker behind this socket answers and accepts requests."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/predictions/densenet", headers=_HEADERS)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("replica", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
