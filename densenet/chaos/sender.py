"""Asking: one question to the service, in one of the ways that clients have, and what became of it."""

import http.client
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import urlsplit

import requests

from densenet.chaos.oracle import Known, Outcome, Verdict, judge

TIMEOUT = 90  # seconds for an answer
_PIECES, _PAUSE = 8, 0.4  # of a slow upload: how many, and the seconds between them


class Way(Enum):
    """How a question is sent."""

    WHOLE = auto()
    SLOWLY = auto()  # in pieces, with pauses
    ABORTED = auto()  # half of it, and the connection is reset
    LEFT = auto()  # all of it, and the connection is closed before the answer


@dataclass(frozen=True)
class Question:
    """A request. kind: what it is counted as; status: of the answer that it is to have."""

    kind: str
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    way: Way = Way.WHOLE


def ask(
    session: requests.Session, base: str, question: Question, known: Known, headers: Mapping[str, str] | None = None
) -> Outcome:
    """Sends a question and judges what comes back; never raises for what a service does. headers: further ones."""
    sent = {**question.headers, **(headers or {})}
    begun = time.monotonic()
    try:
        if question.way in (Way.ABORTED, Way.LEFT):
            _leave(base, question, sent)
            verdict, detail = Verdict.LEFT, ""
        elif question.way is Way.SLOWLY:
            verdict, detail = judge(*_slowly(base, question, sent), known)
        else:
            answer = session.post(base + question.path, data=question.body, headers=sent, timeout=TIMEOUT)
            verdict, detail = judge(answer.status_code, answer.content, known)
    except (requests.Timeout, TimeoutError):
        verdict, detail = Verdict.LATE, ""
    except (requests.RequestException, OSError, http.client.HTTPException) as error:
        verdict, detail = Verdict.LOST, _reason(error)
    return Outcome(question.kind, begun, time.monotonic(), verdict, detail)


def _reason(error: Exception) -> str:
    """What the operating system said of a connection, without addresses and objects."""
    text = str(error)
    known = ("Connection refused", "Connection reset", "Broken pipe", "closed connection without response")
    return next((words.lower() for words in known if words.lower() in text.lower()), type(error).__name__)


def _connection(base: str) -> http.client.HTTPConnection:
    url = urlsplit(base)
    return http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT)


def _slowly(base: str, question: Question, headers: Mapping[str, str]) -> tuple[int, bytes]:
    size = -(-len(question.body) // _PIECES)

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(question.body), size):
            time.sleep(_PAUSE)
            yield question.body[at : at + size]

    connection = _connection(base)
    try:
        length = {"Content-Length": str(len(question.body))}
        connection.request("POST", question.path, body=pieces(), headers={**headers, **length})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _leave(base: str, question: Question, headers: Mapping[str, str]) -> None:
    connection = _connection(base)
    try:
        connection.putrequest("POST", question.path)
        for name, value in {**headers, "Content-Length": str(len(question.body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        aborted = question.way is Way.ABORTED
        connection.send(question.body[: len(question.body) // 2] if aborted else question.body)
        if aborted and connection.sock:
            # Closed at once it is reset, as by a phone that lost its network.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        connection.close()
