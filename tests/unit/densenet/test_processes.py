"""Programs that run beside this one: they end with their block, and say why they failed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from densenet import processes
from densenet.polling import wait_until
from export.console import CliError

FAMILY = "import subprocess\nsubprocess.run(['sleep', '60'])"


def test_a_program_and_its_children_end_with_the_block(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with processes.running([sys.executable, "-c", FAMILY], log) as started:
        process = psutil.Process(started.pid)
        processes.wait_until_ready(process.children, started, seconds=20, log=log)
        everything = [process, *process.children()]
    assert len(everything) == 2
    assert all(map(processes.is_over, everything))


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE", 0.1)
    log = tmp_path / "log"
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    with processes.running([sys.executable, "-c", f"{stubborn}; time.sleep(60)"], log, grace=0.1) as started:
        processes.wait_until_ready(log.read_text, started, seconds=20, log=log)
    assert started.poll() is not None


def test_a_program_has_a_session_its_variables_and_no_input(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os, sys; print(os.getsid(0), os.environ['X'], repr(sys.stdin.read()), os.getcwd())"
    process = processes.start([sys.executable, "-c", code], log, os.environ | {"X": "7"}, tmp_path)
    assert process.wait(20) == 0
    assert log.read_text().split() == [str(process.pid), "7", "''", str(tmp_path)]


def test_a_program_that_fails_says_why_in_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(CliError, match=r"no_such_module failed: .*No module named"):
        processes.run("no_such_module", log=log)
    with (
        processes.running([sys.executable, "-m", "no_such_module"], log) as process,
        pytest.raises(CliError, match=r"the process ended before it was ready: .*No module named"),
    ):
        processes.wait_until_ready(lambda: False, process, seconds=20, log=log)


def test_a_program_that_is_not_ready_in_time_is_an_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        processes.running(["sleep", "60"], log) as process,
        pytest.raises(CliError, match="the process was not ready within 0 seconds: it printed nothing"),
    ):
        processes.wait_until_ready(lambda: False, process, seconds=0.1, log=log)


def test_what_a_program_leaves_behind_is_ended_too() -> None:
    process = subprocess.Popen([sys.executable, "-c", FAMILY])
    root = psutil.Process(process.pid)
    (child,) = wait_until(root.children, 20)
    processes.end(root)
    process.wait()
    assert processes.is_over(child)


WORKING = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[1]).touch())
print(flush=True)
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize("done", [True, False])
def test_a_program_that_has_done_its_work_is_killed(done: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", FAMILY])
    root = psutil.Process(process.pid)
    (child,) = wait_until(root.children, 20)
    processes.end_when(lambda: done, root, grace=0.2)
    process.wait()
    assert processes.is_over(child)


def test_a_program_has_time_to_do_its_work(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with subprocess.Popen([sys.executable, "-c", WORKING, work], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        processes.end_when(work.exists, psutil.Process(process.pid), grace=20)
        assert process.wait() == -signal.SIGKILL
    assert work.exists()


def test_processor_time_is_also_that_of_ended_children() -> None:
    before = processes.cpu_seconds(psutil.Process())
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    assert processes.cpu_seconds(psutil.Process()) - before > 0.03


def test_a_program_is_idle_when_it_has_stopped_computing(tmp_path: Path) -> None:
    code = "import time; sum(range(20_000_000)); print('done', flush=True); time.sleep(60)"
    with processes.running([sys.executable, "-c", code], tmp_path / "log") as process:
        processes.wait_until_idle(psutil.Process(process.pid))
        assert (tmp_path / "log").read_text() == "done\n"


def test_a_free_port_can_be_listened_on() -> None:
    socket.create_server(("127.0.0.1", processes.free_port())).close()
