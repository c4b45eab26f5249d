"""What is counted of two versions' requests, and when the new one is not fit for service."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from densenet.service import readout
from densenet.service.log_reader import Follower
from densenet.service.readout import Limits, ReadOut
from densenet.service.torchserve import Service

LIMITS = Limits(requests=2, errors=0.1, agreement=0.9)


class Logs:
    """A service's two logs, written here as TorchServe and the handler write them."""

    def __init__(self, folder: Path) -> None:
        self.access, self.requests = folder / "access_log.log", folder / "requests.log"
        self.service = Service(1, 5.0, 9000, "", "", "densenet", "", str(folder), {})
        self.add("PUT /predictions/densenet", 200, 1)  # before anybody reads
        self.watched: list[ReadOut] = []

    def watch(self, *, paired: bool = True) -> ReadOut:
        self.watched.append(ReadOut(self.service, "1.0", "1.1", paired=paired))
        return self.watched[-1]

    def add(self, request: str, status: int, milliseconds: int = 70) -> None:
        line = {"level": "INFO", "message": f' /127.0.0.1:43210 "{request} HTTP/1.1" {status} {milliseconds}'}
        with self.access.open("a") as log:
            log.write(json.dumps(line) + "\n")

    def answer(self, version: str, caller: str | None, *classes: str, status: int = 200, **more: Any) -> None:
        line = {"version": version, "caller": caller, "status": status, "images": 1, "classes": classes}
        line |= {"outcomes": {"recognized": len(classes)}, "probabilities": [0.5] * len(classes)} | more
        with self.requests.open("a") as log:
            log.write(json.dumps(line) + "\n")


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    logs = Logs(tmp_path)
    yield logs
    for watched in logs.watched:
        watched.close()


def test_requests_are_counted_by_the_version_that_answered(logs: Logs) -> None:
    watched = logs.watch(paired=False)
    for path, status in (
        ("PUT /predictions/densenet", 200),
        ("POST /predictions/densenet/1.0", 415),
        ("POST /v1/models/densenet:predict", 200),
        ("POST /v2/models/densenet/infer", 503),
        ("GET /predictions/densenet", 200),  # a health check
        ("PUT /models/densenet/1.1/set-default", 200),
        ("PUT /predictions/densenet/0.9", 200),
    ):
        logs.add(path, status, 100)
    for milliseconds in (10, 20, 30):
        logs.add("PUT /predictions/densenet/1.1", 200, milliseconds)
    logs.answer("1.0", None, "cat", outcomes={"not_recognized": 1}, probabilities=[0.1])
    logs.answer("1.1", None, "cat")
    watched.update()
    rows = {name: cells for name, *cells in watched.rows()}
    assert rows["requests"] == ["4", "3"]
    assert rows["errors (5xx)"] == ["1", "0"]
    assert rows["refused (4xx)"] == ["1", "0"]
    assert rows["images recognized"] == ["0.0%", "100.0%"]
    assert rows["mean best probability"] == ["0.100", "0.500"]
    assert rows["median, ms"] == ["100", "20"]
    assert "same answer" not in rows


def test_a_shadows_answers_are_compared_by_the_gateways_id(logs: Logs) -> None:
    watched = logs.watch()
    for caller, old, new in (("a", ["cat"], ["cat"]), ("b", ["cat", "dog"], ["cat", "owl"]), ("c", ["cat"], [])):
        logs.answer("1.0", caller, *old)
        logs.answer("1.1", caller, *new, status=200 if new else 500)
        logs.add("PUT /predictions/densenet/1.1", 200)
    logs.answer("1.0", "dropped", "cat")
    for version in ("1.0", "1.0", "1.1"):
        logs.answer(version, "twice", "cat")  # which of them was copied is not known
    watched.update()
    assert watched.pairs == (3, 1)
    reason = "only 1 of 3 requests agree, fewer than --min-agreement 0.9 requires"
    assert watched.failure(LIMITS) == reason
    assert watched.failure(Limits(2, 0.1)) is None


def test_too_few_requests_too_many_errors_and_nothing_to_compare_are_failures(logs: Logs) -> None:
    watched = logs.watch()
    assert watched.failure(LIMITS) == "version 1.1 got 0 requests, too few to judge it by (--min-requests 2)"
    for status in (200, 500):
        assert not watched.has_errors(LIMITS)
        logs.add("PUT /predictions/densenet/1.1", status)
        watched.update()
    assert watched.has_errors(LIMITS)
    assert watched.failure(LIMITS) == "1 of 2 requests to version 1.1 failed, more than --max-errors 0.1"
    reason = watched.failure(Limits(2, 0.5, 0.9))
    assert reason is not None
    assert reason.startswith("no answer of version 1.1 could be compared")


def test_lines_of_other_programs_and_versions_are_passed_over(logs: Logs) -> None:
    watched = logs.watch()
    logs.requests.write_text('half a line\n{"images": 1}\n[]\n{"images": 1, "version": "0.9"}\n')
    logs.access.write_text(logs.access.read_text() + "2026-11-29 text\n")
    watched.update()
    assert (watched.old.requests, watched.new.requests) == (0, 0)
    readout.show(watched)


def test_a_log_is_followed_from_its_end_through_its_rotation(tmp_path: Path) -> None:
    path = tmp_path / "some.log"
    early = Follower(path)
    path.write_text("before\n")
    follower = Follower(path)
    with path.open("a") as log:
        log.write("one\nha")
        log.flush()
        assert list(follower.lines()) == ["one\n"]
        log.write("lf\n")
    path.rename(tmp_path / "some.1.log")
    assert list(follower.lines()) == ["half\n"]
    path.write_text("new\n")
    assert list(follower.lines()) == ["new\n"]
    assert list(early.lines()) == ["new\n"]
    follower.close()
    early.close()
