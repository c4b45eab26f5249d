"""Who imports whom: the archive holds the handler alone, and the client is installed without the rest."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from export import ROOT

PACKAGES = {
    "handler": "handler",
    "export": "export",
    "densenet": "densenet",
    "densenet_client": "client/densenet_client",
}


def imported(package: str) -> Iterator[str]:
    for path in (ROOT / PACKAGES[package]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    yield from (name.name.partition(".")[0] for name in names)
                case ast.ImportFrom(module=str(module), level=0):
                    yield module.partition(".")[0]


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("handler", set()),
        ("densenet_client", set()),
        ("export", {"handler"}),
        ("densenet", {"handler", "export", "densenet_client"}),
    ],
)
def test_a_package_imports_of_ours_no_more_than_it_may(package: str, allowed: set[str]) -> None:
    assert list((ROOT / PACKAGES[package]).glob("*.py"))
    assert ({*imported(package)} & {*PACKAGES, "tests"}) - {package} <= allowed


def test_what_an_operator_calls_waits_for_no_torch(tmp_path: Path) -> None:
    program = "import sys, densenet.cli as cli\nfor name in sys.argv[1:]: cli.import_module(cli.COMMANDS[name][0])\n"
    program += "print({'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    names = ("stop", "workers", "probe", "rollout", "gateway", "predict")
    command = [sys.executable, "-c", program, *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
