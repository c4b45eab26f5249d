"""The file of API keys that the gateway lets in: a line for each key, with the name of whom it was given to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.console import Problem

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY = re.compile(r"[A-Za-z0-9_-]{32,256}")


@dataclass(frozen=True)
class Caller:
    """A key, and the name that logs and limits know it by. A name may have several keys, the old one and the new."""

    name: str
    key: str


def read(path: Path) -> tuple[Caller, ...]:
    """The callers of a file: `NAME KEY` on each line, # before a comment. Raises Problem, which never tells a key."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except ValueError as error:
        raise Problem(f"{path}: names and keys are letters, digits, - and _") from error
    found = tuple(_caller(path, number, line) for number, line in enumerate(lines, 1) if not _is_empty(line))
    if not found:
        raise Problem(f"{path} holds no key; a line is NAME KEY, with a key such as `openssl rand -hex 24` makes")
    if len({caller.key for caller in found}) < len(found):
        raise Problem(f"{path}: the same key stands there twice")
    return found


def _is_empty(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _caller(path: Path, number: int, line: str) -> Caller:
    match line.split():
        case [name, key] if _NAME.fullmatch(name) and _KEY.fullmatch(key):
            return Caller(name, key)
    raise Problem(
        f"{path}, line {number}: a line is NAME KEY, both of letters, digits, - and _, the key of at least 32"
    )


def as_map(callers: Sequence[Caller]) -> str:
    """The callers as entries of nginx's `map`, from key to name.

    As regular expressions: plain strings are compared without regard to case. A key's characters mean themselves there.
    """
    return "\n        ".join(f'"~^{caller.key}$" "{caller.name}";' for caller in callers)
