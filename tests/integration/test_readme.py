"""The documents stay true: their commands run against a service, and print what the documents show, in shape."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from densenet.service import serve
from export import ROOT
from tests.integration.conftest import Server

README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADDRESS = "http://127.0.0.1:8080"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)")


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks in a language."""
    found = _BLOCK.findall(document.read_text(encoding="utf-8"))
    return [content for name, content in found if name == language]


def commands(document: Path) -> Iterator[tuple[str, str]]:
    """Each command of the console blocks with the output that the document shows."""
    for block in blocks(document, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, output = re.split(r"(?<!\|)\n", part, maxsplit=1)  # a pipe goes on in the next line
            yield command, output


SENT = [
    pytest.param(command, output, id=f"{document.name}-{number}")
    for document in (README, ROOT / "docs" / "requests.md", ROOT / "docs" / "protocols.md")
    for number, (command, output) in enumerate(commands(document))
    if ADDRESS in command
]


def shape(value: Any) -> Any:
    """Keys and types of JSON; of a list, the shapes of its elements, each once."""
    if isinstance(value, dict):
        return {key: shape(element) for key, element in value.items()}
    if isinstance(value, list):
        shapes = [shape(element) for element in value]
        return [element for i, element in enumerate(shapes) if element not in shapes[:i]]
    return type(value).__name__


def beginnings(text: str) -> list[str]:
    """Each line's indentation and first word."""
    return re.findall(r"^\s*\S+", text, re.MULTILINE)


def run(command: list[str], server: Server) -> str:
    """Run a command in the repository's folder, with the address of that service."""
    command = [part.replace(ADDRESS, server.service.inference) for part in command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_the_commands_are_found() -> None:
    assert len(SENT) >= 7
    assert any(str(param.id).startswith("README") for param in SENT)


@pytest.mark.parametrize(("command", "output"), SENT)
def test_a_command_prints_what_the_document_shows(command: str, output: str, server: Server) -> None:
    printed = run(["bash", "-o", "pipefail", "-c", command], server)
    assert shape(json.loads(printed)) == shape(json.loads(output))
    assert len(printed.splitlines()) == len(output.splitlines())


def test_the_python_lines_print_what_the_readme_shows(server: Server) -> None:
    (program,) = blocks(README, "python")
    assert sum(map(bool, program.splitlines())) == 3
    label, probability = run([sys.executable, "-c", program], server).split()
    shown_label, shown_probability = program.rpartition("# ")[2].split()
    assert re.fullmatch(r"\w+", label)
    assert re.fullmatch(r"\w+", shown_label)
    assert 0 <= float(probability) <= 1
    assert 0 <= float(shown_probability) <= 1


def test_serve_ends_in_the_lines_of_the_readme(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (output,) = (output for command, output in commands(README) if command == "scripts/serve")
    serve._report(server.service, 2, "up", "scripts/stop")
    assert beginnings(capsys.readouterr().out) == beginnings(output)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for name, heading in _LINK.findall(document.read_text(encoding="utf-8")):
        target = document.parent / name if name else document
        assert target.exists(), name
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
            assert heading in anchors, f"{name}#{heading}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_that_are_named_exist(document: Path) -> None:
    for name in re.findall(r"\bscripts/(\w+)", document.read_text(encoding="utf-8")):
        assert (ROOT / "scripts" / name).exists(), name
