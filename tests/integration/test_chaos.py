"""scripts/chaos as a person runs it: some of its faults for real, in short."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export import ROOT
from tests.integration.conftest import build_archive

SECONDS = 8  # of the mixed load


@pytest.fixture(scope="module")
def archive(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_archive(exported, tmp_path_factory.mktemp("archive"), workers=1)


def inject(archive: Path, output: Path, fault: str) -> tuple[dict[str, Any], "subprocess.CompletedProcess[str]"]:
    """The command's finding, and how it ended."""
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "densenet", "chaos", "--only", fault, "--minutes", str(SECONDS / 60)),
            *("--archive", archive, "--output", output),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    (finding,) = json.loads((output / "reliability.json").read_text())["findings"]
    return finding, done


def labels(finding: dict[str, Any]) -> set[str]:
    return {label for counts in finding["clients"].values() for label in counts}


def test_a_killed_worker_leads_to_right_answers_and_one_clean_error(archive: Path, tmp_path: Path) -> None:
    finding, done = inject(archive, tmp_path, "worker-killed")
    unmet = [check["what"] for check in finding["checks"] if not check["met"]]
    assert unmet in ([], ["recovery time"]), done.stdout  # how fast is not what is tested
    assert finding["clients"]["photo"]["right: 200"] >= 30
    assert {label.partition(":")[0] for label in labels(finding)} <= {"right", "clean error"}
    assert finding["normal_after"] > 0
    assert "| [worker-killed](#worker-killed) |" in (tmp_path / "reliability.md").read_text()


def test_damaged_archives_are_refused_in_one_line_each(archive: Path, tmp_path: Path) -> None:
    finding, done = inject(archive, tmp_path, "corrupt-archive")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(finding["checks"]) == len(finding["operator"]) == 6
    assert all("exit status 1, 1 line(s)" in check["found"] for check in finding["checks"])


def test_mixed_load_is_answered_rightly_and_counted(archive: Path, tmp_path: Path) -> None:
    finding, done = inject(archive, tmp_path, "mixed-load")
    assert len(finding["clients"]) == 14
    assert {label.partition(":")[0] for label in labels(finding)} == {"right", "left on purpose"}, done.stdout
    unmet = [check for check in finding["checks"] if not check["met"]]
    # Memory is a matter of minutes, not of seconds.
    assert all("rise of" in check["what"] for check in unmet), unmet
    assert {sample["process"] for sample in finding["samples"]} == {"front end", "worker 1", "worker 2"}
    assert "](reliability.svg)" in (tmp_path / "reliability.md").read_text()
