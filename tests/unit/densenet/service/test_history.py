"""The history: one step back never brings a withdrawn version back, and the last copy of an archive is kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from densenet.service import history
from densenet.service.history import Entry, History
from export.console import CliError


def entry(name: str) -> Entry:
    return Entry(digest=name * 20, version=name, weights="mine.pth", precision="fp32", since=0.0)


def served(*names: str) -> History:
    """The history of a service into which these were put, one after another."""
    past = History()
    for name in names:
        past = past.with_serving(entry(name))
    return past


def versions(past: History) -> tuple[str | None, str | None]:
    """The version in service, and the one that a rollback returns to."""
    return past.serving and past.serving.version, past.previous and past.previous.version


def back(past: History) -> History:
    assert past.previous
    return past.with_serving(past.previous)


@pytest.fixture(autouse=True)
def _readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives whose content is their version."""
    card = {"weights": {"name": "mine.pth"}, "precision": "fp32"}
    monkeypatch.setattr(history, "read_card", lambda path: card)
    monkeypatch.setattr(history, "read_version", Path.read_text)


@pytest.fixture
def put(tmp_path: Path) -> Any:
    """Put an archive of this version into service; its entry."""

    def put(version: str) -> Entry:
        archive = tmp_path / "densenet.mar"
        archive.write_text(version)  # into the same file, as `cp` does
        kept = history.keep(tmp_path, archive)
        history.save(tmp_path, history.load(tmp_path).with_serving(kept))
        history.clean(tmp_path)
        return kept

    return put


def test_nothing_was_in_service_at_first() -> None:
    assert versions(History()) == (None, None)
    assert versions(served("a")) == ("a", None)


def test_each_step_back_goes_further_and_the_last_has_none() -> None:
    past = served("a", "b", "c")
    assert versions(past) == ("c", "b")
    assert versions(back(past)) == ("b", "a")
    assert versions(back(back(past))) == ("a", None)


def test_what_was_withdrawn_is_no_step_back_after_a_later_start() -> None:
    past = back(served("a", "b")).with_serving(entry("x"))
    assert versions(past) == ("x", "a")
    assert [(e.version, e.withdrawn) for e in past.entries] == [("a", False), ("b", True), ("x", False)]


def test_to_name_an_earlier_one_withdraws_all_since() -> None:
    past = served("a", "b", "c").with_serving(entry("a"))
    assert versions(past) == ("a", None)
    assert [e.withdrawn for e in past.entries] == [False, True, True]


def test_a_withdrawn_one_can_be_named_again() -> None:
    past = back(served("a", "b")).with_serving(entry("b"))
    assert versions(past) == ("b", "a")
    assert [e.version for e in past.entries] == ["a", "b"]


def test_the_same_again_changes_nothing() -> None:
    past = served("a", "b")
    assert past.with_serving(entry("b")) == past


@pytest.mark.parametrize(
    ("names", "version"),
    [
        ((), "1.0"),
        (("1.0",), "1.1"),
        (("1.9",), "1.10"),
        (("1.2", "1.1"), "1.3"),
        (("v007",), "v8"),
        (("2.0-beta",), "2.0-beta.1"),
    ],
)
def test_the_next_version_is_the_first_free_one(names: tuple[str, ...], version: str) -> None:
    assert served(*names).next_version() == version


def test_the_name_of_a_withdrawn_version_is_not_free() -> None:
    assert back(served("1.0", "1.1")).next_version() == "1.2"


def test_withdrawn_ones_go_before_those_that_can_be_returned_to() -> None:
    past = back(back(served("a", "b", "c", "d")))
    assert [e.version for e in past.limited(3).entries] == ["a", "b", "d"]
    assert [e.version for e in past.limited(2).entries] == ["a", "b"]
    assert [e.version for e in served("a", "b", "c").limited(2).entries] == ["b", "c"]


def test_copies_outlive_what_is_written_over_the_archive(tmp_path: Path, put: Any) -> None:
    kept = [put(version) for version in ("1", "2", "3")]
    assert [history.file(tmp_path, e).read_text() for e in kept] == ["1", "2", "3"]
    assert [e.digest for e in history.load(tmp_path).entries] == [e.digest for e in kept]


def test_as_many_are_kept_as_the_setting_says(tmp_path: Path, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in map(str, range(7)):
        put(version)
    assert [e.version for e in history.load(tmp_path).entries] == ["2", "3", "4", "5", "6"]
    assert len(list((tmp_path / "archives").iterdir())) == 5
    monkeypatch.setenv(history.LIMIT, "2")
    put("7")
    assert [e.version for e in history.load(tmp_path).entries] == ["6", "7"]
    assert len(list((tmp_path / "archives").iterdir())) == 2
    for value in ("1", "0", "-3", "many"):
        monkeypatch.setenv(history.LIMIT, value)
        with pytest.raises(CliError, match=f"at least 2, not {value}"):
            put("8")
    assert versions(history.load(tmp_path)) == ("7", "6")


def test_a_copy_that_is_damaged_or_gone_is_refused_and_made_again(tmp_path: Path, put: Any) -> None:
    kept = put("1")
    path = history.file(tmp_path, kept)
    for spoil in (lambda: path.write_text("x"), path.unlink):
        spoil()
        with pytest.raises(CliError, match="missing or damaged"):
            history.file(tmp_path, kept)
        put("1")
        assert history.file(tmp_path, kept).read_text() == "1"


def test_an_archive_whose_start_failed_was_tried_until_another_succeeds(tmp_path: Path, put: Any) -> None:
    put("1")
    (tmp_path / "densenet.mar").write_text("2")
    tried = history.keep(tmp_path, tmp_path / "densenet.mar")
    assert history.was_tried(tmp_path, tried.digest)
    assert not history.was_tried(tmp_path, entry("f").digest)
    put("3")
    assert not history.was_tried(tmp_path, tried.digest)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"entries": [{"digest": "0"}]}', '{"entries": [{"new": 1}]}']
)
def test_a_history_that_cannot_be_read_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "history.json"
    path.write_text(content)
    with pytest.raises(CliError, match=r"history\.json is damaged, or of another version .*; remove it"):
        history.load(tmp_path)
    assert path.read_text() == content


def test_a_write_that_fails_leaves_the_history_as_it_was(tmp_path: Path, put: Any) -> None:
    put("1")
    before = (tmp_path / "history.json").read_text()
    (tmp_path / "history.json.partial").mkdir()
    with pytest.raises(IsADirectoryError):
        put("2")
    assert (tmp_path / "history.json").read_text() == before


def test_the_archive_of_a_service_of_an_earlier_version_begins_the_history(tmp_path: Path) -> None:
    (tmp_path / "serving.mar").write_text("1")
    (tmp_path / "rollout.json").write_text(json.dumps({"before": "/somewhere/densenet-0.9.mar"}))
    assert versions(history.adopt(tmp_path)) == ("1", None)
    assert history.adopt(tmp_path) == history.load(tmp_path)
    history.clean(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"archives", "history.json"}
