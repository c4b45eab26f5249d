"""Read the gateway's API keys from a file that has a line per key: the name of its owner, and the key."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export import console
from export.console import CliError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY = re.compile(r"[A-Za-z0-9_-]{32,256}")


@dataclass(frozen=True)
class Caller:
    """A key, and the name that logs and limits use for it; a name may have several keys, such as an old and a new."""

    name: str
    key: str


def read(path: Path) -> tuple[Caller, ...]:
    """Read the callers from a file with a line `NAME KEY` each; lines that begin with # are comments.

    Raises:
        CliError: if the file cannot be read, a line is invalid, a key occurs twice, or there is none; the message never
            contains a key.
    """
    try:
        with console.open_file("--keys", path) as file:
            lines = file.read().decode("ascii").splitlines()
    except ValueError as error:
        raise CliError(f"{path}: names and keys may contain only the letters a-z and A-Z, digits, - and _") from error
    callers = tuple(_caller(path, number, line) for number, line in enumerate(lines, 1) if not _is_empty(line))
    if not callers:
        raise CliError(f"{path} contains no key; add a line NAME KEY, with a key made by `openssl rand -hex 24`")
    if len({caller.key for caller in callers}) < len(callers):
        raise CliError(f"{path}: two lines have the same key; give each line its own")
    return callers


def _is_empty(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _caller(path: Path, number: int, line: str) -> Caller:
    match line.split():
        case [name, key] if _NAME.fullmatch(name) and _KEY.fullmatch(key):
            return Caller(name, key)
    raise CliError(
        f"{path}, line {number}: write NAME KEY, both of letters, digits, - and _; a key has 32 to 256 characters"
    )


def as_map(callers: Sequence[Caller]) -> str:
    """Return entries of nginx's `map` from key to name.

    The keys are regular expressions, since nginx ignores case when it compares plain strings. None of the characters of
    a key is special in a regular expression.
    """
    return "\n        ".join(f'"~^{caller.key}$" "{caller.name}";' for caller in callers)
