"""Workers that a launcher gets from the fork server are like those that start by themselves, and end with it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from densenet.polling import wait_until
from densenet.processes import is_over
from densenet.service import allocator, worker_launcher
from export import ROOT

pytestmark = pytest.mark.skipif(not worker_launcher.command("/"), reason="workers are forked on Linux only")
MODULES = ("wave",)  # what the fork server imports
REPORT = "import os\nprint(os.getpid(), os.getppid(), flush=True)\n"  # the processes of the worker and its parent
Launcher = subprocess.Popen[str]
Launch = Callable[..., Launcher]


def servers() -> list[psutil.Process]:
    """Fork servers that belong to this process, as they would to TorchServe's."""
    children = psutil.Process().children()
    return [child for child in children if any(word.endswith("fork_server.py") for word in command_line(child))]


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def end(server: psutil.Process) -> None:
    server.kill()
    with suppress(ChildProcessError):
        os.waitpid(server.pid, 0)


def over(pid: int) -> bool:
    """Whether a process has ended, which is not this one's child."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return True
    return wait_until(lambda: is_over(process), 20)


def report(launcher: Launcher) -> tuple[int, int]:
    """Process ids of the worker and of its parent."""
    assert launcher.stdout
    pid, parent = map(int, launcher.stdout.readline().split())
    return pid, parent


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts a launcher for a program; all launchers and fork servers end with the test."""
    (tmp_path / "ts").mkdir()
    launchers = []

    def launch(program: str, *arguments: str, modules: tuple[str, ...] = MODULES, **options: object) -> Launcher:
        path = tmp_path / "ts" / allocator.WORKER
        path.write_text(program)
        command = [*worker_launcher.command(str(tmp_path), modules), str(path), *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        launchers.append(subprocess.Popen(command, **pipes | options))  # type: ignore[call-overload]
        return launchers[-1]

    yield launch
    for launcher in launchers:
        with launcher:
            launcher.kill()
    for server in servers():
        end(server)


def test_a_worker_runs_as_the_interpreter_would_run_it(launch: Launch, tmp_path: Path) -> None:
    program = """
import json, os, sys
environment = {name: value for name, value in os.environ.items() if name != "LC_CTYPE"}
print(json.dumps([__name__, __file__, sys.argv, sys.path, sys.executable, os.getcwd(), environment]))
print(sys.stdin.read(), file=sys.stderr)
"""
    environment = os.environ | {"PYTHONPATH": f"archive{os.pathsep}/elsewhere", "OF_THIS_WORKER": "ä\udcff"}
    launch("pass").wait(20)  # started the fork server, with another environment and in another folder
    launcher = launch(program, "--port", "ü 1", env=environment, cwd=tmp_path)
    output, errors = launcher.communicate("input", timeout=20)
    command = [sys.executable, launcher.args[-3], "--port", "ü 1"]  # type: ignore[index]
    alone = subprocess.run(
        command, env=environment, cwd=tmp_path, input="input", capture_output=True, text=True, check=True
    )
    assert json.loads(output) == json.loads(alone.stdout)
    assert (errors, launcher.returncode) == ("input\n", 0)


def test_it_shares_what_is_imported_and_none_of_its_random_numbers(launch: Launch) -> None:
    program = "import gc, random, sys; print('wave' in sys.modules, gc.isenabled(), gc.get_freeze_count() > 5000); "
    program += "import numpy; print(random.random(), numpy.random.random())"
    outputs = [
        launch(program, modules=("wave", "numpy.random")).communicate(timeout=60)[0].split("\n") for _ in range(2)
    ]
    assert [output[0] for output in outputs] == ["True True True"] * 2
    numbers = [number for output in outputs for number in output[1].split()]
    assert len(set(numbers)) == 4


def test_what_workers_import_is_shared_and_starts_no_thread_and_no_gpu(launch: Launch) -> None:
    program = """
import json, os, sys
known = set(sys.modules)
import handler.entry, torch, ts.model_service_worker
def threads(process): return len(os.listdir(f"/proc/{process}/task"))
new = [name for name in set(sys.modules) - known if "site-packages" in str(getattr(sys.modules[name], "__file__", ""))]
ours = "handler" in known
torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
print(json.dumps([new, ours, threads(os.getppid()), threads("self") > 1, torch.cuda._is_in_bad_fork()]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    output, errors = launch(program, modules=worker_launcher.MODULES, env=environment).communicate(timeout=120)
    # TorchServe's program for workers is run, not imported.
    assert json.loads(output or "null") == [["ts.model_service_worker"], False, 1, True, False], errors


def test_it_is_known_by_its_command_line_and_belongs_to_the_launchers_parent(launch: Launch) -> None:
    launch("pass").wait(20)
    arguments = ["--sock-type", "unix", "--sock-name", "/tmp/torchserve/.ts.sock.90000"]  # longer than the first one's
    launcher = launch(REPORT + "input()", *arguments)
    pid, parent = report(launcher)
    words = [word for word in psutil.Process(pid).cmdline() if word]
    assert words == [sys.executable, launcher.args[-5], *arguments]  # type: ignore[index]
    assert [server.pid for server in servers()] == [parent]
    assert not any(word.endswith(allocator.WORKER) for word in psutil.Process(launcher.pid).cmdline())


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("sys.exit(7)", 7),
        ("pass", 0),
        ("os._exit(3)", 3),
        ("1 / 0", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),  # as Java reports a signal, too
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139),
    ],
)
def test_a_launcher_ends_as_its_worker_does(launch: Launch, ending: str, status: int) -> None:
    launcher = launch(f"import os, signal, sys; {ending}")
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == status
    assert ("ZeroDivisionError" in errors) == (ending == "1 / 0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    "hanging",
    ["input()", "while True: pass", "sum(range(10**12))", "import signal; os.kill(os.getpid(), signal.SIGSTOP)"],
)
def test_a_worker_ends_with_its_launcher_however_it_hangs(launch: Launch, hanging: str, number: signal.Signals) -> None:
    launcher = launch(REPORT + hanging)
    pid, _ = report(launcher)
    launcher.send_signal(number)
    assert launcher.wait(20) == -number
    assert over(pid)


def test_launchers_that_start_together_start_one_fork_server(launch: Launch) -> None:
    parents = {report(launcher)[1] for launcher in [launch(REPORT) for _ in range(5)]}
    assert [server.pid for server in servers()] == list(parents)


def test_workers_outlive_the_fork_server_and_the_next_one_gets_another(launch: Launch) -> None:
    first, second = launch(REPORT + "input()"), launch(REPORT + "input()")
    (pid, parent), (other, _) = report(first), report(second)
    end(psutil.Process(parent))
    third = launch(REPORT)
    assert report(third)[1] != parent
    assert third.wait(20) == 0
    first.communicate("\n", timeout=20)
    assert over(pid)
    assert first.returncode == 1  # nobody knows its status
    assert second.poll() is None
    second.kill()
    assert over(other)


@pytest.mark.parametrize("fault", ["the folder is gone", "it does not start"])
def test_without_a_fork_server_a_worker_starts_by_itself(launch: Launch, tmp_path: Path, fault: str) -> None:
    # No module has an empty name.
    modules = ("",) if fault == "it does not start" else MODULES
    program = REPORT + "import sys; sys.exit(5)"
    launcher = launch(program, modules=modules)
    output, errors = launcher.communicate(timeout=20)
    if fault == "it does not start":
        assert "ValueError: Empty module name" in errors
        assert "\nthe fork server does not answer (" in errors
        assert errors.endswith("); this worker starts by itself\n")
        assert (output, launcher.returncode) == (f"{launcher.pid} {os.getpid()}\n", 5)
        assert servers() == []
        return
    command = [*worker_launcher.command(str(tmp_path / "gone")), *launcher.args[-1:]]  # type: ignore[index]
    alone = subprocess.run(command, capture_output=True, text=True, check=False)
    assert alone.returncode == 5
    assert alone.stderr.count("\n") == 1
    assert "No such file or directory" in alone.stderr


def test_a_fork_server_that_hangs_is_not_waited_for(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, parent = report(launch(REPORT))
    psutil.Process(parent).suspend()
    monkeypatch.setattr(worker_launcher, "_PATIENCE", 0.1)
    with pytest.raises(TimeoutError):
        worker_launcher._request(str(tmp_path), "", ["program"])


def test_a_launcher_that_ends_before_it_has_sent_all_disturbs_nobody(launch: Launch, tmp_path: Path) -> None:
    _, parent = report(launch(REPORT))
    with worker_launcher._connect(str(tmp_path), "", []) as connection:
        connection.sendall(b"\0\0\1\0")
    launcher = launch(REPORT)
    assert report(launcher)[1] == parent


def test_the_front_end_takes_fork_server_and_workers_with_it(launch: Launch, tmp_path: Path) -> None:
    program = tmp_path / allocator.WORKER
    program.write_text(REPORT + "import signal; os.kill(os.getpid(), signal.SIGSTOP)")
    front_end = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"
    command = [*worker_launcher.command(str(tmp_path), MODULES), str(program)]
    with subprocess.Popen([sys.executable, "-c", front_end, *command], stdout=subprocess.PIPE, text=True) as process:
        pid, parent = report(process)
        assert {pid, parent} < {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
        process.kill()
    assert over(parent)
    assert over(pid)


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker_launcher.VARIABLE, "none")
    assert worker_launcher.command("/tmp") == []


@pytest.mark.parametrize(("attribute", "value"), [("sys.platform", "darwin"), ("_CLONE", {})])
def test_elsewhere_workers_start_by_themselves(monkeypatch: pytest.MonkeyPatch, attribute: str, value: object) -> None:
    monkeypatch.setattr(f"densenet.service.worker_launcher.{attribute}", value)
    assert worker_launcher.command("/tmp") == []
