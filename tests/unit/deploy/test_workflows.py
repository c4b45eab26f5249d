"""The workflows and hooks of the repository's host, which cannot run here: their schema, and what they call."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from export import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
HOOKS = ROOT / ".pre-commit-config.yaml"


def commands(workflow: Path) -> list[str]:
    jobs: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


def test_there_is_one_for_changes_and_one_for_releases() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


def test_they_are_workflows() -> None:
    for schema in ("vendor.github-workflows", "custom.github-workflows-require-timeout"):
        command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", schema, *WORKFLOWS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_what_they_call_is_there(workflow: Path) -> None:
    called = [word for command in commands(workflow) for word in re.findall(r"(?:scripts/|\.ci/)\w+", command)]
    assert called
    for program in called:
        assert (ROOT / program).stat().st_mode & 0o111


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_their_options_exist(workflow: Path) -> None:
    for command in commands(workflow):
        if match := re.match(r"scripts/(export|archive)\b", command):
            help_text = subprocess.run(
                [sys.executable, "-P", "-m", "densenet", match[1], "--help"], capture_output=True, text=True, check=True
            ).stdout
            assert all(option in help_text for option in re.findall(r"--[\w-]+", command))


def test_every_supported_python_is_tested() -> None:
    matrix = yaml.safe_load(WORKFLOWS[0].read_text())["jobs"]["fast"]["strategy"]["matrix"]
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.11,<3.15"' in pyproject
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_the_hooks_run_what_scripts_test_installs() -> None:
    for repository in yaml.safe_load(HOOKS.read_text())["repos"]:
        for hook in repository["hooks"]:
            program = hook["entry"].split()[0]
            assert program.startswith(".venv-test/bin/")
            assert Path(sys.executable).with_name(Path(program).name).exists()
