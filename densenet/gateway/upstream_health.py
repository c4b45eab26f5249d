"""Which of several replicas to send requests to: those whose workers answer.

nginx learns from failures only, and a TorchServe that is still loading its model does not fail: it takes requests, and
lets them wait. So each replica is asked for its health, by way of its queue and a worker, once a second.
"""

import http.client
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_EVERY = 1.0  # seconds between two questions
_TIMEOUT = 5.0  # seconds for an answer; a full queue of 100 takes about four on two cores
_QUESTION = {"Accept": "application/health+json"}


class Watch:
    """Asks replicas through their sockets, each in a thread of its own, for as long as this process lives."""

    def __init__(self, sockets: Sequence[Path]) -> None:
        self._passing = dict.fromkeys(sockets, True)
        for path in sockets if len(sockets) > 1 else ():  # where there is no other, there is no choice
            threading.Thread(target=self._ask_again, args=(path,), daemon=True).start()

    def away(self) -> frozenset[Path]:
        """Those to ask after all others; none where all fail, since then each may be the first to answer again."""
        return failing(dict(self._passing))

    def _ask_again(self, path: Path) -> None:
        while True:
            time.sleep(_EVERY)
            self._passing[path] = passes(path)


def failing(passing: Mapping[Path, bool]) -> frozenset[Path]:
    """The replicas that fail while another passes."""
    failed = frozenset(path for path, passed in passing.items() if not passed)
    return failed if len(failed) < len(passing) else frozenset()


def passes(path: Path) -> bool:
    """Whether a worker behind this socket answers, and takes requests."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/predictions/densenet", headers=_QUESTION)
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
