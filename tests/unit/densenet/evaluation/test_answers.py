"""The answers file: what is kept, what a run that ended early leaves, and what is not mixed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from densenet.evaluation import answers
from densenet.evaluation.answers import About, Outcome, ResultsLog
from export.console import CliError

MODEL = {"name": "densenet", "version": "1.0", "weights": "mine.pth", "precision": "fp32"}
ABOUT: dict[str, Any] = {"model": MODEL, "set": {"images": 3, "sha256": "0" * 64}}
GOOD = Outcome(("n01440764", "n01443537"), (0.75, 0.125), True)
REFUSED = Outcome(code="broken_image", message="cut short")
LOST = Outcome(code=answers.NO_ANSWER, message="the connection was lost")


def write(path: Path, outcomes: Mapping[str, Outcome], about: About = ABOUT) -> None:
    with answers.opened(path, about, restart=False) as results_log:
        for file, outcome in outcomes.items():
            results_log.append(file, outcome)


def read(path: Path, about: About = ABOUT, *, restart: bool = False) -> ResultsLog:
    with answers.opened(path, about, restart=restart) as results_log:
        return results_log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made on the way" / "answers.jsonl"


def test_answers_come_back_as_they_were(path: Path) -> None:
    outcomes = {"a.jpg": GOOD, "wëird\n\udcff.jpg": REFUSED}
    write(path, outcomes)
    assert read(path).outcomes == outcomes


def test_every_answer_is_on_the_disk_at_once(path: Path) -> None:
    with answers.opened(path, ABOUT, restart=False) as results_log:
        results_log.append("a.jpg", GOOD)
        assert json.loads(path.read_text().splitlines()[-1])["file"] == "a.jpg"


@pytest.mark.parametrize("cut", [1, 2, 30, 100])
def test_of_a_last_line_cut_in_half_nothing_is_believed(path: Path, cut: int) -> None:
    write(path, {"a.jpg": GOOD, "b.jpg": GOOD})
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read(path).outcomes) == ["a.jpg"]
    write(path, {"b.jpg": REFUSED})
    assert read(path).outcomes == {"a.jpg": GOOD, "b.jpg": REFUSED}


def test_a_first_line_cut_in_half_is_a_fresh_start(path: Path) -> None:
    write(path, {})
    path.write_bytes(path.read_bytes()[:20])
    write(path, {"a.jpg": GOOD})
    assert read(path).outcomes == {"a.jpg": GOOD}


def test_what_says_nothing_about_the_image_is_asked_again_and_the_newest_answer_counts(path: Path) -> None:
    write(path, {"a.jpg": GOOD, "b.jpg": LOST, "c.jpg": REFUSED})
    results_log = read(path)
    assert [results_log.settled(file) for file in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")] == [True, False, True, False]
    write(path, {"b.jpg": GOOD})
    assert (read(path).outcomes["b.jpg"], read(path).lines) == (GOOD, 4)


def test_time_is_summed_over_the_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 101.0, 103.5, 0.0, 9000.0, 9000.25])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with answers.opened(path, ABOUT, restart=False) as results_log:
        results_log.start()
        results_log.append("a.jpg", GOOD)
        results_log.append("b.jpg", GOOD)
        assert results_log.seconds == 3.5
    with answers.opened(path, ABOUT, restart=False) as results_log:
        results_log.start()
        results_log.append("c.jpg", GOOD)
        assert (results_log.seconds, results_log.lines) == (3.75, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": MODEL | {"weights": "other.pth"}}, "answers of another model .*weights mine.pth.*--restart"),
        ({"model": MODEL | {"version": "2.0"}}, "another model"),
        ({"model": MODEL | {"precision": "int8"}}, "another model"),
        (
            {"set": {"images": 3, "sha256": "1" * 64}},
            "other images or labels .3 images then, 3 now.*--restart",
        ),
    ],
)
def test_answers_are_not_mixed(path: Path, changed: dict[str, Any], message: str) -> None:
    write(path, {"a.jpg": GOOD})
    before = path.read_bytes()
    with pytest.raises(CliError, match=message):
        read(path, ABOUT | changed)
    assert path.read_bytes() == before
    assert read(path, ABOUT | changed, restart=True).outcomes == {}
    assert read(path, ABOUT | changed).outcomes == {}


@pytest.mark.parametrize("line", ["{}", "nonsense", "[]", "7", '{"file": "a.jpg", "seconds": 1, "classes": []}'])
@pytest.mark.parametrize("place", [0, 1])
def test_a_file_that_is_none_of_ours_is_told(path: Path, line: str, place: int) -> None:
    write(path, {"a.jpg": GOOD})
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:place], line, *lines[place + 1 :]]) + "\n")
    with pytest.raises(CliError, match="damaged or not an answers file; use --restart"):
        read(path)


def test_two_runs_do_not_write_to_one_file(path: Path) -> None:
    with answers.opened(path, ABOUT, restart=False), pytest.raises(CliError, match="another evaluation is writing"):
        read(path)
