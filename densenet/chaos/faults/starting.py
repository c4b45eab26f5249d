"""Faults that must prevent the start: a damaged archive, a bad line in config.properties."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from densenet.chaos.environment import Checkout
from densenet.chaos.plan import Check, Fault, Finding
from densenet.chaos.scenario import Scenario
from export import CARD, NETWORK
from export.archive import CONFIG, copy_with_settings

_MAX_LINE = 300  # characters of an error line that is still readable


def corrupt_archive(scenario: Scenario) -> Finding:
    """Check that scripts/serve rejects archives damaged in different ways."""
    checkout = Checkout(scenario.scratch("corrupt") / "checkout", scenario.archive)
    done = "`scripts/serve` is called with archives that were damaged in different ways."
    result = Finding(Fault.CORRUPT_ARCHIVE, done)
    for what, damage, message in _DAMAGES:
        damage(scenario.archive, checkout.archive)
        _must_refuse(checkout, result, what, message)
    return result


def bad_configuration(scenario: Scenario) -> Finding:
    """Check that scripts/serve rejects bad lines in config.properties and bad settings in the archive."""
    checkout = Checkout(scenario.scratch("bad") / "checkout", scenario.archive)
    done = "`scripts/serve` is called with one bad line in `config.properties`, or one in the archive's settings."
    result = Finding(Fault.BAD_CONFIGURATION, done)
    config = checkout.root / "config.properties"
    original = config.read_text()
    for line, message in _LINES:
        key = re.split("[= ]", line)[0]
        kept = [old for old in original.splitlines() if not old.startswith(f"{key}=")]
        config.write_text("\n".join([*kept, line, ""]))
        _must_refuse(checkout, result, f"`{line}`", message)
    config.write_text(original)
    for settings, message in _SETTINGS:
        copy_with_settings(scenario.archive, checkout.archive, settings)
        _must_refuse(checkout, result, f"`{json.dumps(settings)}` in the archive's {CONFIG}", message)
    return result


def _must_refuse(checkout: Checkout, result: Finding, what: str, message: str) -> None:
    """Check that scripts/serve prints one line with message, exits with a status other than 0 and leaves no service."""
    try:
        status, lines = checkout.run_to_end()
        left = list((checkout.root / ".run").glob("*/service.json"))
    finally:
        checkout.stop()
    clear = len(lines) == 1 and message in lines[0] and len(lines[0]) < _MAX_LINE
    observed = f"exit status {status}, {len(lines)} line(s)" + (", a recorded service" if left else "")
    required = f"not 0, 1 line with “{message}”"
    result.checks.append(Check(what, required, observed, status != 0 and clear and not left))
    result.operator = [*result.operator, f"{what}: {' / '.join(lines[:2])}".replace(str(checkout.root), "…")]


def _cut_short(archive: Path, target: Path) -> None:
    content = archive.read_bytes()
    target.write_bytes(content[: len(content) // 2])


def _one_byte(archive: Path, target: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    target.write_bytes(content)


def _empty(_: Path, target: Path) -> None:
    target.write_bytes(b"")


def _another_network(archive: Path, target: Path) -> None:
    _rewrite(archive, target, NETWORK, lambda content: content + b"\0")


def _without_handler(archive: Path, target: Path) -> None:
    _rewrite(archive, target, "entry.py", lambda _: b"raise ImportError('a module is missing')\n")


def _without_card(archive: Path, target: Path) -> None:
    _rewrite(archive, target, CARD, lambda _: b"[]")


def _rewrite(archive: Path, target: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Write a copy of the archive with one file changed and valid checksums."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for inside, content in _contents(old):
            new.writestr(inside, change(content) if inside == name else content)


def _contents(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    for name in archive.namelist():
        yield name, archive.read(name)


_DAMAGES: tuple[tuple[str, Callable[[Path, Path], None], str], ...] = (
    ("cut short in the middle", _cut_short, "is damaged or not an archive of this project"),
    ("one byte changed", _one_byte, "is damaged"),
    ("an empty file", _empty, "is damaged or not an archive of this project"),
    ("an invalid model card", _without_card, "is damaged or not an archive of this project"),
    ("a network that differs from the card's", _another_network, "is not the file that the model card describes"),
    ("a handler that cannot be imported", _without_handler, "a module is missing"),
)
_LINES = (
    ("inference_address=127.0.0.1", "inference_address must be an address"),
    ("max_request_size=10MB", "max_request_size"),
    ("number_of_netty_threads=many", "number_of_netty_threads"),
    ("enable_model_api=perhaps", "enable_model_api"),
    ("max_request_size 10485760", "max_request_size 10485760"),
    ("vmargs=-Xmx1zettabyte", "-Xmx1zettabyte"),
)
_SETTINGS = (
    ({"handler": {"top_k": 0}}, "handler.top_k must be a whole number from 1 to 1000, not 0"),
    ({"handler": {"topk": 5}}, "unknown setting handler.topk"),
)
