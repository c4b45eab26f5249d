"""Faults that must prevent the start: a damaged archive, a bad line in config.properties."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from densenet.chaos.environment import Checkout
from densenet.chaos.plan import Check, Fault, Finding
from densenet.chaos.scenario import Scenario
from export import CARD, NETWORK
from export.archive import CONFIG, copy_with_settings

_Damage = Callable[[Path, Path], object]  # takes an archive and the path of the damaged copy
_MAX_LINE = 300  # characters of an error line that is still readable


def corrupt_archive(scenario: Scenario) -> Finding:
    """Check that scripts/serve rejects archives damaged in different ways."""
    checkout = Checkout(scenario.scratch("corrupt") / "checkout", scenario.archive)
    done = "`scripts/serve` is started with archives that are damaged in different ways."
    result = Finding(Fault.CORRUPT_ARCHIVE, done)
    for what, damage, message in _DAMAGES:
        damage(scenario.archive, checkout.archive)
        _must_refuse(checkout, result, what, message)
    return result


def bad_configuration(scenario: Scenario) -> Finding:
    """Check that scripts/serve rejects bad lines in config.properties and bad settings in the archive."""
    checkout = Checkout(scenario.scratch("bad") / "checkout", scenario.archive)
    done = "`scripts/serve` is started with one bad line in `config.properties`, or one in the archive's settings."
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
    observed = f"exit status {status}, {len(lines)} line(s)" + (", the service is still recorded" if left else "")
    required = f"exit status other than 0, 1 line with “{message}”"
    result.checks.append(Check(what, required, observed, status != 0 and clear and not left))
    result.operator = [*result.operator, f"{what}: {' / '.join(lines[:2])}".replace(str(checkout.root), "…")]


def _changed(change: Callable[[bytes], bytes]) -> _Damage:
    """Return a function that writes a changed copy of an archive's bytes."""
    return lambda archive, target: target.write_bytes(change(archive.read_bytes()))


def _rewritten(name: str, change: Callable[[bytes], bytes]) -> _Damage:
    """Return a function that writes a copy of an archive with one file changed and valid checksums."""

    def rewrite(archive: Path, target: Path) -> None:
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
            for inside in old.namelist():
                new.writestr(inside, change(old.read(inside)) if inside == name else old.read(inside))

    return rewrite


def _flip_one(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


_NOT_OURS = "is damaged or not an archive of this project"
_DAMAGES: tuple[tuple[str, _Damage, str], ...] = (
    ("cut short in the middle", _changed(lambda content: content[: len(content) // 2]), _NOT_OURS),
    ("one byte changed", _changed(_flip_one), "is damaged"),
    ("an empty file", _changed(lambda _: b""), _NOT_OURS),
    ("an invalid model card", _rewritten(CARD, lambda _: b"[]"), _NOT_OURS),
    (
        "a network that differs from the card's",
        _rewritten(NETWORK, lambda content: content + b"\0"),
        "is not the file that the model card describes",
    ),
    (
        "a handler that cannot be imported",
        _rewritten("entry.py", lambda _: b"raise ImportError('a module is missing')\n"),
        "a module is missing",
    ),
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
