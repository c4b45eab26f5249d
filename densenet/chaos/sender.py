"""Send one request to the service in one of the ways that clients do, and record its outcome."""

import http.client
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import urlsplit

import requests

from densenet.chaos.oracle import Expected, Outcome, Verdict, judge

TIMEOUT = 90  # seconds for an answer
_PIECES, _PAUSE = 8, 0.4  # of a slow upload: number of pieces, and seconds between them


class Way(Enum):
    """The way a request is sent."""

    WHOLE = auto()
    SLOWLY = auto()  # in pieces, with pauses
    ABORTED = auto()  # half of it, then the connection is reset
    LEFT = auto()  # all of it, then the connection is closed before the answer


@dataclass(frozen=True)
class ClientRequest:
    """A request. kind: the name under which it is counted. status: the expected HTTP status."""

    kind: str
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    way: Way = Way.WHOLE


def quiet_session() -> requests.Session:
    """Return a session that ignores proxies set in the environment."""
    session = requests.Session()
    session.trust_env = False
    return session


def send(
    session: requests.Session,
    base: str,
    request: ClientRequest,
    expected: Expected,
    headers: Mapping[str, str] | None = None,
) -> Outcome:
    """Send a request and judge the response. Connection errors become verdicts. headers: sent in addition."""
    all_headers = {**request.headers, **(headers or {})}
    begun = time.monotonic()
    try:
        if request.way in (Way.ABORTED, Way.LEFT):
            _leave(base, request, all_headers)
            verdict, detail = Verdict.LEFT, ""
        elif request.way is Way.SLOWLY:
            verdict, detail = judge(*_slowly(base, request, all_headers), expected)
        else:
            answer = session.post(base + request.path, data=request.body, headers=all_headers, timeout=TIMEOUT)
            verdict, detail = judge(answer.status_code, answer.content, expected)
    except (requests.Timeout, TimeoutError):
        verdict, detail = Verdict.LATE, ""
    except (requests.RequestException, OSError, http.client.HTTPException) as error:
        verdict, detail = Verdict.LOST, _reason(error)
    return Outcome(request.kind, begun, time.monotonic(), verdict, detail)


def _reason(error: Exception) -> str:
    """Return the operating system's reason for a connection error, without addresses and object names."""
    text = str(error)
    reasons = ("Connection refused", "Connection reset", "Broken pipe", "closed connection without response")
    return next((reason.lower() for reason in reasons if reason.lower() in text.lower()), type(error).__name__)


def _connection(base: str) -> http.client.HTTPConnection:
    url = urlsplit(base)
    return http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT)


def _slowly(base: str, request: ClientRequest, headers: Mapping[str, str]) -> tuple[int, bytes]:
    size = -(-len(request.body) // _PIECES)

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(request.body), size):
            time.sleep(_PAUSE)
            yield request.body[at : at + size]

    connection = _connection(base)
    try:
        length = {"Content-Length": str(len(request.body))}
        connection.request("POST", request.path, body=pieces(), headers={**headers, **length})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _leave(base: str, request: ClientRequest, headers: Mapping[str, str]) -> None:
    connection = _connection(base)
    try:
        connection.putrequest("POST", request.path)
        for name, value in {**headers, "Content-Length": str(len(request.body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        aborted = request.way is Way.ABORTED
        connection.send(request.body[: len(request.body) // 2] if aborted else request.body)
        if aborted and connection.sock:
            # A linger time of 0 makes close() reset the connection, as when a phone loses its network.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        connection.close()
