"""Clients in threads: every outcome is kept, requests are drawn by weight, and no error is lost."""

import time
from collections import Counter
from typing import Any

import pytest
from requests import Session

from densenet.chaos import load, sender
from densenet.chaos.load import JudgedLoad, Load
from densenet.chaos.oracle import Expected, Outcome, Verdict
from densenet.chaos.sender import ClientRequest
from export.console import CliError


def test_clients_send_numbered_requests_until_the_block_ends() -> None:
    with Load(lambda _, number: number).running(3) as running:
        running.wait_for_answers(50, "here")
    assert running.sent == len(running.outcomes) >= 50
    assert sorted(running.outcomes) == list(range(running.sent))


def test_an_error_of_a_client_ends_the_wait_and_the_block() -> None:
    def fail(_: Session, number: int) -> int:
        raise ValueError("no such photo")

    with pytest.raises(ValueError, match="no such photo"), Load(fail).running(2) as running:
        running.wait_for_answers(1, "here")
    with pytest.raises(ValueError, match="no such photo"), Load(fail).running(2):
        time.sleep(0.1)


def test_too_few_answers_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PATIENCE", 0.01)
    with (
        pytest.raises(CliError, match=r"fewer than 1000000000 answers in 0\.01 seconds before the fault"),
        Load(lambda _, number: number).running(1) as running,
    ):
        running.wait_for_answers(10**9, "before the fault")


def test_each_request_is_sent_once_and_then_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(_: Session, base: str, request: ClientRequest, expected: Expected, headers: Any) -> Outcome:
        assert (base, expected.document, headers) == ("http://x", request.kind, {"A": "1"})
        return Outcome(request.kind, 0, 0, Verdict.RIGHT)

    monkeypatch.setattr(sender, "send", send)
    requests = [ClientRequest(kind, "/", b"") for kind in ("often", "seldom", "never")]
    expected = [Expected(200, request.kind) for request in requests]
    with JudgedLoad("http://x", requests, expected, [9, 1, 0], {"A": "1"}).running(1) as running:
        running.wait_for_answers(1000, "here")
    kinds = [outcome.kind for outcome in running.outcomes]
    assert kinds[:3] == ["often", "seldom", "never"]
    counts = Counter(kinds[3:])
    assert counts["never"] == 0
    assert 0.8 < counts["often"] / counts.total() < 0.98
