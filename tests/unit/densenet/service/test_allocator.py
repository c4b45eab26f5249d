"""Workers' memory allocator."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from densenet.service import allocator
from export.console import CliError

wants_linux = pytest.mark.skipif(sys.platform != "linux", reason="mimalloc's wheels are for Linux")
LOADED = "print(any('mimalloc' in line for line in open('/proc/self/maps')))"


def run(program: Path, *arguments: str, **environment: str) -> str:
    return subprocess.run([program, *arguments], env=environment, text=True, capture_output=True, check=True).stdout


@wants_linux
def test_workers_python_runs_with_mimalloc(tmp_path: Path) -> None:
    program = allocator.python(tmp_path)
    assert run(program, "-c", LOADED) == "True\n"
    assert run(Path(sys.executable), "-c", LOADED) == "False\n"
    assert run(program, "-c", "import sys; print(sys.executable, sys.argv[1:])", "a b", "$c") == (
        f"{sys.executable} ['a b', '$c']\n"
    )


@wants_linux
def test_what_is_preloaded_already_stays(tmp_path: Path) -> None:
    program = allocator.python(tmp_path)
    other = "/nonexistent/other.so"  # the linker reports it and goes on
    preloaded = run(program, "-c", "import os; print(os.environ['LD_PRELOAD'])", LD_PRELOAD=other)
    assert preloaded == f"{allocator.find()}:{other}\n"


@wants_linux
@pytest.mark.parametrize(("name", "loads"), [("it's a folder", False), ("a:b", False), ("it's", True)])
def test_a_path_that_the_linker_cannot_read_is_left_out(
    name: str, loads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = allocator.find()
    assert library is not None
    moved = tmp_path / name / "libmimalloc.so"
    moved.parent.mkdir()
    moved.write_bytes(library.read_bytes())
    monkeypatch.setenv(allocator.VARIABLE, str(moved))
    assert run(allocator.python(tmp_path), "-c", LOADED) == f"{loads}\n"


@wants_linux
def test_a_folder_where_programs_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert allocator.python(tmp_path) == Path(sys.executable)


def test_it_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(allocator.VARIABLE, "none")
    assert allocator.find() is None
    assert allocator.python(tmp_path) == Path(sys.executable)


def test_without_the_package_workers_keep_the_c_librarys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_PACKAGE", "a-package-that-nobody-has")
    assert allocator.python(tmp_path) == Path(sys.executable)


def test_a_workers_program_is_passed_to_its_command_and_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ["echo", "it's a worker:"]
    for library in ("none", ""):  # "": mimalloc
        monkeypatch.setenv(allocator.VARIABLE, library)
        program = allocator.python(tmp_path, worker)
        assert run(program, "/a b/ts/model_service_worker.py", "--port", "$1") == (
            "it's a worker: /a b/ts/model_service_worker.py --port $1\n"
        )
        assert run(program, "-c", "print(1)", "model_service_worker.py") == "1\n"


def test_a_library_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(allocator.VARIABLE, "nolibrary.so")
    with pytest.raises(CliError, match=r"nolibrary\.so, which does not exist"):
        allocator.find()
