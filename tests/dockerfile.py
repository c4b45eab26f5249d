"""deploy/Dockerfile as data, and the tree of files that it puts into the image."""

import json
import re
import shutil
from pathlib import Path

from export import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """(instruction, arguments), continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def runtime() -> list[Instruction]:
    """The last stage's."""
    everything = instructions()
    last = max(i for i, (word, _) in enumerate(everything) if word == "FROM")
    return everything[last:]


def only(word: str) -> str:
    """The arguments of an instruction that stands once in the last stage."""
    (found,) = [rest for name, rest in runtime() if name == word]
    return found


def entry_point() -> list[str]:
    words: list[str] = json.loads(only("ENTRYPOINT"))
    return words


def health_check() -> list[str]:
    words: list[str] = json.loads(only("HEALTHCHECK").partition("CMD ")[2])
    return words


def copies(stage: list[Instruction]) -> list[list[str]]:
    """[source, …, target] of what comes from the context."""
    return [rest.split() for name, rest in stage if name == "COPY" and not rest.startswith("--from")]


def unpack(archive: Path, folder: Path) -> None:
    """The image's working directory, with this archive in it."""
    for *sources, target in copies(runtime()):
        for source in map(ROOT.joinpath, sources):
            if source.is_dir():
                shutil.copytree(source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (folder / target).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / target / source.name)
    for name in ("model_store", ".run", "logs"):
        (folder / name).mkdir()
    shutil.copyfile(archive, folder / "model_store" / "densenet.mar")
