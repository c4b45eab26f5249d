"""Chaos tests without their faults: judging, counting, growth, the command and the page that it writes."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from densenet.chaos import command, leak_check, monitor, oracle, plan, report, workload
from densenet.chaos.leak_check import Sample
from densenet.chaos.oracle import Expected, Outcome, Verdict
from densenet.chaos.plan import Fault, Finding, Skipped
from densenet.chaos.scenario import Scenario
from densenet.chaos.sender import Way
from export.console import CliError
from handler.errors import ErrorCode

RIGHT: dict[str, Any] = {"success": True, "predictions": [{"class_id": "n1", "probability": 0.5}], "recognized": True}
OURS = {"success": False, "error": {"code": "not_an_image", "message": "…"}}
TORCHSERVES = {"code": 503, "type": "ServiceUnavailableException", "message": "…"}


def judged(status: int, document: object, expected: Expected | None = None) -> tuple[Verdict, str]:
    return oracle.judge(status, json.dumps(document).encode(), expected or Expected(200, RIGHT))


def test_the_known_answer_is_right_but_for_the_last_digits() -> None:
    near, far = (RIGHT | {"predictions": [{"class_id": "n1", "probability": 0.5 + off}]} for off in (1e-6, 1e-3))
    assert judged(200, RIGHT) == judged(200, near) == (Verdict.RIGHT, "200")
    assert judged(200, far) == (Verdict.WRONG, "200")


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT | {"recognized": False},
        RIGHT | {"predictions": []},
        RIGHT | {"predictions": [{"class_id": "n2", "probability": 0.5}]},
        {key: RIGHT[key] for key in ("success", "predictions")},
        RIGHT | {"success": 1.0},
        [RIGHT],
        OURS,
    ],
)
def test_any_other_answer_is_wrong(answer: object) -> None:
    assert judged(200, answer) == (Verdict.WRONG, "200")


def test_an_answer_that_is_no_json_is_wrong_and_such_an_error_unclear() -> None:
    assert oracle.judge(200, b"<html>", Expected(200, RIGHT))[0] is Verdict.WRONG
    assert oracle.judge(500, b"<html>", Expected(200, RIGHT)) == (Verdict.UNCLEAR, "500 b'<html>'")
    assert judged(500, {"message": "?"}) == (Verdict.UNCLEAR, "500 without a code")
    assert judged(500, ["?"]) == (Verdict.UNCLEAR, "500 without a code")


def test_an_error_of_the_service_is_clean() -> None:
    assert judged(503, TORCHSERVES) == (Verdict.REFUSED, "503 ServiceUnavailableException")
    assert judged(400, TORCHSERVES | {"type": "InvalidKeyException"}) == (Verdict.REFUSED, "400 InvalidKeyException")
    internal = {"success": False, "error": {"code": ErrorCode.INTERNAL_ERROR, "message": "…"}}
    assert judged(500, internal) == (Verdict.REFUSED, "500 internal_error")
    assert judged(503, {"error": "draining: the service ends"}) == (Verdict.REFUSED, "503 draining")


def test_a_refusal_is_right_where_it_is_due_and_wrong_where_it_is_not() -> None:
    assert judged(415, OURS, Expected(415, OURS)) == (Verdict.RIGHT, "415 not_an_image")
    assert judged(415, OURS)[0] is Verdict.WRONG
    other = {"success": False, "error": {"code": "broken_image", "message": "…"}}
    assert judged(422, other, Expected(415, OURS)) == (Verdict.WRONG, "422 broken_image")
    limit = {"success": False, "error": {"code": "too_costly", "message": "…"}}
    assert judged(422, limit, Expected(200, OURS)) == (Verdict.REFUSED, "422 too_costly")


def outcome(ended: float, verdict: Verdict, kind: str = "photo", detail: str = "") -> Outcome:
    return Outcome(kind, ended - 0.1, ended, verdict, detail)


def test_outcomes_are_counted_by_kind_and_label() -> None:
    outcomes = [outcome(1, Verdict.RIGHT, detail="200"), outcome(2, Verdict.LOST, "text"), outcome(3, Verdict.RIGHT)]
    assert oracle.tally([*outcomes, outcomes[0]]) == {
        "photo": {"right: 200": 2, "right": 1},
        "text": {"connection lost": 1},
    }
    assert oracle.count(outcomes, Verdict.LOST, Verdict.LATE) == 1


@pytest.mark.parametrize(
    ("ends", "recovered", "seconds"),
    [
        ([(3, Verdict.RIGHT), (20, Verdict.RIGHT)], 12.0, 2.0),
        ([(11, Verdict.REFUSED), (14, Verdict.LOST), (15, Verdict.RIGHT)], 12.0, 4.0),
        ([(5, Verdict.LOST), (15, Verdict.RIGHT)], 12.0, 2.0),  # it failed before
        ([(11, Verdict.RIGHT), (14, Verdict.LOST)], 12.0, None),  # nothing right afterwards
        ([(20, Verdict.RIGHT)], None, None),
    ],
)
def test_normal_is_after_the_last_failure_and_when_all_workers_are_there(
    ends: list[tuple[float, Verdict]], recovered: float | None, seconds: float | None
) -> None:
    assert oracle.seconds_to_normal([outcome(*end) for end in ends], 10.0, recovered) == seconds


def test_a_line_is_drawn_through_the_second_half_alone() -> None:
    seconds = [float(at) for at in range(20)]
    climbing_first = [min(at, 10) * 5 for at in seconds]
    line = leak_check.trend(seconds, climbing_first)
    assert line is not None
    assert (line.rise, line.hourly, line.median) == pytest.approx((0, 0, 50))
    climbing = leak_check.trend(seconds, [100 + 2 * at for at in seconds])
    assert climbing is not None
    assert (climbing.rise, climbing.hourly) == pytest.approx((18, 7200))


def samples(growth: float, count: int = 20) -> list[Sample]:
    return [
        Sample(float(at), name, 300 + growth * at, 50, 12)
        for at in range(count)
        for name in (leak_check.FRONT_END, "worker 1")
    ]


@pytest.mark.parametrize(("growth", "unmet"), [(0.1, set()), (2.0, {"worker 1"}), (9.0, {"worker 1", "front end"})])
def test_growth_beyond_its_bound_is_not_met(growth: float, unmet: set[str]) -> None:
    checks = leak_check.checks(samples(growth))
    assert len(checks) == 6
    assert {check.what.partition(":")[0] for check in checks if not check.met} == unmet


def test_too_few_samples_prove_nothing() -> None:
    assert leak_check.trend([], []) is None
    assert not any(check.met for check in leak_check.checks(samples(0, count=4)))


def test_expectations() -> None:
    assert [plan.at_most("x", value, 2).met for value in (1, 2, 2.1, None)] == [True, True, False, False]
    assert [plan.at_least("x", value, 2).met for value in (1, 2)] == [False, True]
    assert plan.equal("x", 1, 1).met
    assert plan.at_most("x", None, 2, " s").line == "NOT MET  x: never, required at most 2 s"


def test_an_operators_log_is_its_warnings_once_each() -> None:
    text = (
        "2026-11-21T13:48:15,138 WARN  main ConfigManager - any URL\n"
        "2026-11-21T13:48:15,367 INFO  main ModelServer - \nTorchserve version: 0.12.0\n"
        "2026-11-21T13:48:16,138 WARN  main ConfigManager - any URL\n"
        "2026-11-21T13:48:17,138 ERROR epoll-3-1 HttpRequestHandler - \njava.io.IOException: Connection reset\n\tat x\n"
    )
    assert monitor.warnings(text) == [
        "WARN ConfigManager - any URL",
        "ERROR HttpRequestHandler - java.io.IOException: Connection reset",
    ]


def test_an_operator_reads_only_what_is_new(tmp_path: Path) -> None:
    names = ("ts_log.log", "model_log.log", "access_log.log")
    for name in names:
        (tmp_path / name).write_text('2026-11-21 ERROR main Old - old\n"POST /old HTTP/1.1" 500 7\n')
    log = monitor.Log(SimpleNamespace(logs=str(tmp_path)))  # type: ignore[arg-type]
    assert log.warnings() == []
    for name in names:
        with (tmp_path / name).open("a") as file:
            file.write('T ERROR main New - new\n/127.0.0.1 "POST /new HTTP/1.1" 507 7\n"POST /new HTTP/1.1" 200 7\n')
            file.write("T INFO W-9000 - request 1: unexpected failure: 'Traceback'\n")
    assert log.warnings() == ["ERROR New - new", "unexpected failure: 'Traceback'", '"POST /new HTTP/1.1" 507']


def test_the_mixed_load_has_every_way_of_sending_and_what_is_refused() -> None:
    mixed = workload.mixed()
    assert {request.way for request, _ in mixed} == set(Way)
    assert {request.status for request, _ in mixed} == {200, 400, 413, 415, 422}
    assert sum(weight for _, weight in mixed) == 100
    photos = workload.photos()
    assert len({request.body for request in photos}) == len(photos)


def test_two_photos_with_one_answer_are_noticed() -> None:
    other = RIGHT | {"predictions": [{"class_id": "n1", "probability": 0.6}]}
    workload.check_different([Expected(200, RIGHT), Expected(200, other)])
    with pytest.raises(CliError, match="two photos have the same answer"):
        workload.check_different([Expected(200, RIGHT), Expected(200, other), Expected(200, RIGHT)])


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> dict[Fault, Any]:
    """No fault is tried; each has the finding, or the exception, that is put here."""
    found: dict[Fault, Any] = {fault: Finding(fault, "Done.", checks=[plan.equal("a", 1, 1)]) for fault in Fault}

    def stand_in(fault: Fault) -> object:
        def fail(_: Scenario) -> Finding:
            if isinstance(found[fault], Exception):
                raise found[fault]
            finding: Finding = found[fault]
            return finding

        return fail

    card = {"weights": {"name": "untrained"}, "precision": "fp32"}
    monkeypatch.setattr(command, "_FAULTS", {fault: stand_in(fault) for fault in Fault})
    monkeypatch.setattr(command, "_archive", lambda *_: Path("densenet.mar"))
    monkeypatch.setattr(command, "read_card", lambda _: card)
    return found


def test_all_faults_are_tried_and_the_report_written(
    tried: dict[Fault, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {"photo": {"right: 200": 7, "clean error: 507 X": 1}, "text": {"connection lost: refused": 2}}
    tried[Fault.WORKER_KILLED].clients = labels
    tried[Fault.WORKER_KILLED].normal_after = 2.34
    tried[Fault.DISK_FULL] = Skipped("not root")
    tried[Fault.MIXED_LOAD].samples = [asdict(sample) for sample in samples(0)]
    command.main(output=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"reliability.{end}" for end in ("json", "md", "svg")]
    document = json.loads((tmp_path / "reliability.json").read_text())
    assert [finding["fault"] for finding in document["findings"]] == list(Fault)
    page = (tmp_path / "reliability.md").read_text()
    assert "| [worker-killed](#worker-killed) | 7 | 1 | 2 | 0 | 0 | 0 | 0 | 2.3 s | as expected |" in page
    assert "Skipped: not root." in page
    assert page.count("](reliability.svg)") == 1
    ElementTree.parse(tmp_path / "reliability.svg")
    assert "met      a: 1, required 1" in capsys.readouterr().out


def test_what_is_not_as_expected_ends_the_command_with_a_problem(tried: dict[Fault, Any], tmp_path: Path) -> None:
    tried[Fault.WORKER_HUNG].checks.append(plan.at_most("wrong answers", 1, 0))
    tried[Fault.QUEUE_FULL] = OSError("no more threads")
    with pytest.raises(CliError, match="not as expected: worker-hung, queue-full"):
        command.main(output=tmp_path)
    page = (tmp_path / "reliability.md").read_text()
    assert "| wrong answers | at most 0 | 1 | **not met** |" in page
    assert "| the chaos test | completes | no more threads | **not met** |" in page


def test_one_fault_alone(tried: dict[Fault, Any], tmp_path: Path) -> None:
    command.main(only=[Fault.QUEUE_FULL], minutes=1, output=tmp_path)
    document = json.loads((tmp_path / "reliability.json").read_text())
    assert ([one["fault"] for one in document["findings"]], document["minutes"]) == (["queue-full"], 1)
    assert not (tmp_path / "reliability.svg").exists()


def test_every_verdict_has_a_column() -> None:
    labels = {verdict.value: 1 for verdict in Verdict}
    assert report.totals({"photo": labels}) == dict.fromkeys(Verdict, 1)


def test_a_bad_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "none.mar").write_text("no archive")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "densenet",
            "chaos",
            "--archive",
            tmp_path / "none.mar",
            "--output",
            tmp_path / "out",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "none.mar is damaged or not an archive of this project" in done.stderr
