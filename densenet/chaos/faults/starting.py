"""What is wrong before the start: a damaged archive, a bad line in config.properties."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from densenet.chaos.environment import Checkout
from densenet.chaos.plan import Check, Fault, Finding
from densenet.chaos.scenario import Scene
from export import CARD, NETWORK
from export.archive import CONFIG, copy_with_settings

_LONGEST = 300  # characters of what is still one clear line


def corrupt_archive(scene: Scene) -> Finding:
    """scripts/serve with archives that are damaged in different ways."""
    checkout = Checkout(scene.scratch("corrupt") / "checkout", scene.archive)
    done = "`scripts/serve` is called with archives that were damaged in different ways."
    found = Finding(Fault.CORRUPT_ARCHIVE, done)
    for what, damage, telling in _DAMAGES:
        damage(scene.archive, checkout.archive)
        _must_refuse(checkout, found, what, telling)
    return found


def bad_configuration(scene: Scene) -> Finding:
    """scripts/serve with a line in config.properties, or a setting of the archive, that cannot be used."""
    checkout = Checkout(scene.scratch("bad") / "checkout", scene.archive)
    done = "`scripts/serve` is called with one bad line in `config.properties`, or one in the archive's settings."
    found = Finding(Fault.BAD_CONFIGURATION, done)
    config = checkout.root / "config.properties"
    original = config.read_text()
    for line, telling in _LINES:
        key = re.split("[= ]", line)[0]
        kept = [old for old in original.splitlines() if not old.startswith(f"{key}=")]
        config.write_text("\n".join([*kept, line, ""]))
        _must_refuse(checkout, found, f"`{line}`", telling)
    config.write_text(original)
    for settings, telling in _SETTINGS:
        copy_with_settings(scene.archive, checkout.archive, settings)
        _must_refuse(checkout, found, f"`{json.dumps(settings)}` in the archive's {CONFIG}", telling)
    return found


def _must_refuse(checkout: Checkout, found: Finding, what: str, telling: str) -> None:
    """One line that names what is wrong, an exit status that is not 0, and nothing that goes on running."""
    try:
        status, lines = checkout.fails()
        left = list((checkout.root / ".run").glob("*/service.json"))
    finally:
        checkout.stop()
    clear = len(lines) == 1 and telling in lines[0] and len(lines[0]) < _LONGEST
    told = f"exit status {status}, {len(lines)} line(s)" + (", a service on record" if left else "")
    wanted = f"not 0, 1 line with “{telling}”"
    found.checks.append(Check(what, wanted, told, status != 0 and clear and not left))
    found.operator = [*found.operator, f"{what}: {' / '.join(lines[:2])}".replace(str(checkout.root), "…")]


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
    """The same archive with one file changed, and its checksums right."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for inside, content in _contents(old):
            new.writestr(inside, change(content) if inside == name else content)


def _contents(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    for name in archive.namelist():
        yield name, archive.read(name)


_DAMAGES: tuple[tuple[str, Callable[[Path, Path], None], str], ...] = (
    ("cut short in the middle", _cut_short, "is no archive of this project, or damaged"),
    ("one byte changed", _one_byte, "is damaged"),
    ("an empty file", _empty, "is no archive of this project, or damaged"),
    ("a model card that is none", _without_card, "is no archive of this project, or damaged"),
    ("a network that is not the card's", _another_network, "is not the file that the model card describes"),
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
    ({"handler": {"topk": 5}}, "handler.topk is no setting"),
)
