"""What is remembered of a service between two commands."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from densenet import polling
from densenet.service import torchserve
from densenet.service.properties import Properties
from densenet.service.torchserve import Service
from export import ROOT
from export.console import CliError
from handler.worker_control import VARIABLE


def save_state(run: Path, temp: Path, **changes: object) -> Service:
    """A service on record, whose process is this one unless told otherwise."""
    values = {"pid": os.getpid(), "started": 5.0, "port": 9000, "temp": str(temp), "card": {}}
    texts = dict.fromkeys(("inference", "management", "model", "logs"), "")
    service = Service(**texts | values | changes)  # type: ignore[arg-type]
    (run / str(service.port)).mkdir()
    (run / str(service.port) / torchserve.STATE).write_text(json.dumps(asdict(service)))
    return service


def test_a_live_service_is_found_whatever_the_clock_says_of_its_start(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)", f"-Djava.io.tmpdir={tmp_path / 'temp'}"]
    process = subprocess.Popen(command)
    try:
        # A process that is just being started has no command line yet.
        assert polling.wait_until(lambda: command[-1] in psutil.Process(process.pid).cmdline(), 60)
        service = save_state(tmp_path, tmp_path / "temp", pid=process.pid)
        assert torchserve.running(tmp_path) == [service]
        assert torchserve.is_recorded(service, tmp_path)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("changes", [{"started": psutil.Process().create_time()}, {"pid": 2**22 + 1}])
def test_what_a_dead_service_left_behind_is_removed_and_no_stranger_ended(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    (tmp_path / "temp").mkdir()
    service = save_state(tmp_path, tmp_path / "temp", **changes)
    assert torchserve.running(tmp_path) == []
    assert not (tmp_path / "temp").exists()
    assert not torchserve.is_recorded(service, tmp_path)
    assert psutil.pid_exists(os.getpid())


def test_trained_weights_are_recorded_for_good_and_untrained_ones_are_not(tmp_path: Path) -> None:
    for name, trained in (("untrained", False), ("mine.pth", True), ("untrained", True)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        service = Service(1, 5.0, 9000, "", "", "", "", "", {"weights": {"name": name}}, folder=str(folder))
        torchserve.save_state(service)
        assert torchserve.has_served_trained(tmp_path) == trained
    assert torchserve.running(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_record_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "9000").mkdir()
    (tmp_path / "9000" / torchserve.STATE).write_text(text)
    assert torchserve.running(tmp_path) == []


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        properties = Properties.read(ROOT / "config.properties").on_port(port)
        with pytest.raises(CliError, match=f"port {port} is taken"):
            torchserve.check_ports(properties)


def test_a_worker_is_known_by_its_environment_even_if_it_outlived_its_service_and_no_other_process_is(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    service = save_state(tmp_path / "run", tmp_path / "temp", pid=2**22 + 1)
    worker, other = tmp_path / "model_service_worker.py", tmp_path / "another.py"
    for program in (worker, other):
        program.write_text("import time; time.sleep(600)")
    ours, theirs = str(service.control), str(tmp_path / "other" / "control")
    # The last is like a launcher, which has a worker's command line behind its own.
    cases = [([worker], ours), ([worker], theirs), ([other], ours), ([other, worker], ours)]
    # A TCP port, as on macOS: nothing of the command line tells whose worker it is.
    processes = [
        subprocess.Popen(
            [sys.executable, *words, "--sock-type", "tcp", "--port", "9000"], env=os.environ | {VARIABLE: control}
        )
        for words, control in cases
    ]
    try:
        assert [process.pid for process in torchserve.worker_processes(service)] == [processes[0].pid]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_memory_counts_all_that_is_resident_where_only_root_may_know_what_is_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    process = psutil.Process()
    assert torchserve.private_memory(process) == pytest.approx(process.memory_full_info().uss, rel=0.2)
    monkeypatch.setattr(psutil.Process, "memory_full_info", refuse)
    assert torchserve.private_memory(process) == pytest.approx(process.memory_info().rss, rel=0.2)
