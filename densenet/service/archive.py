"""Seeing to it that there is an archive, of the weights asked for and with the handler as it is now."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export import CARD, DEFAULT_FOLDER, Precision
from export.archive import is_current, is_servable, read_card, refresh
from export.console import Problem, Unreachable, err


@dataclass(frozen=True)
class Wanted:
    """What an archive should hold; what is None may be anything."""

    weights: str | None = None
    class_index: Path | None = None
    precision: Precision | None = None
    calibration_images: Path | None = None


def ensure(archive: Path, wanted: Wanted, *, rebuild: bool) -> None:
    """Exports and archives what is missing or differs from what is wanted.

    With no weights named: the archive's own; with no archive yet, ImageNet's or, where they cannot be downloaded,
    loudly, untrained ones. Raises Problem.
    """
    if not archive.exists():
        _export(wanted.weights or "imagenet", wanted, fall_back=wanted.weights is None)
        _pack(archive)
        return
    try:
        card = read_card(archive)
    except Problem:
        if not (rebuild and wanted.weights):
            raise
        _export(wanted.weights, wanted, fall_back=False)
        _pack(archive)
        return
    outdated = not is_servable(card)
    if outdated:
        err.print("the archive was made by an older export: exporting anew")
    if rebuild or outdated or not satisfies(card, wanted):
        wanted = replace(wanted, precision=wanted.precision or Precision(card["precision"]))
        _export(wanted.weights or _own_weights(archive, card), wanted, fall_back=False)
        _pack(archive)
    elif _is_of_last_export(card) and not is_current(archive, DEFAULT_FOLDER):
        err.print("the handler has changed: packing it into the archive anew")
        refresh(archive, DEFAULT_FOLDER)


def _own_weights(archive: Path, card: dict[str, Any]) -> str:
    """What to export again where no weights are named."""
    name = card["weights"]["name"]
    own = {"IMAGENET1K_V1": "imagenet", "untrained": "untrained"}.get(name)
    if own is None:
        raise Problem(f"{archive.name} was made of the file {name}; name it again: --weights FILE")
    return own


def satisfies(card: dict[str, Any], wanted: Wanted) -> bool:
    """Whether an archive with this card is what is wanted. Raises Problem for files that are not there."""
    if wanted.precision is not None and card["precision"] != wanted.precision:
        return False
    if wanted.calibration_images is not None and not _was_calibrated_with(card, wanted.calibration_images):
        return False
    return _has_classes(card, wanted.class_index) and _has_weights(card, wanted.weights)


def _was_calibrated_with(card: dict[str, Any], folder: Path) -> bool:
    from export.calibration import digest  # torch comes with it: seconds that only this option costs

    return bool(card["agreement"].get("images_sha256") == digest(folder))


def _has_classes(card: dict[str, Any], class_index: Path | None) -> bool:
    if class_index is not None:
        from export.bundle import class_index_json  # torch comes with it: seconds that only this option costs
        from handler.labels import load_class_index

        try:
            asked = class_index_json(load_class_index(class_index))
        except (OSError, ValueError) as error:
            raise Problem(str(error)) from error
        return bool(card["classes"]["sha256"] == hashlib.sha256(asked).hexdigest())
    return True


def _has_weights(card: dict[str, Any], weights: str | None) -> bool:
    have = card["weights"]
    if weights is None:
        return True
    if weights == "imagenet":
        return bool(have["name"] == "IMAGENET1K_V1")
    if weights == "untrained":
        return bool(have["name"] == "untrained")
    path = Path(weights)
    if not path.is_file():
        raise Problem(f"there is no weights file {path}; --weights takes imagenet, untrained or a file")
    return bool(have["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest())


def _is_of_last_export(card: dict[str, Any]) -> bool:
    path = DEFAULT_FOLDER / CARD
    return path.exists() and bool(json.loads(path.read_bytes()) == card)


def _export(weights: str, wanted: Wanted, *, fall_back: bool) -> None:
    named = (
        ("--class-index", wanted.class_index),
        ("--precision", wanted.precision),
        ("--calibration-images", wanted.calibration_images),
    )
    options = [word for name, value in named if value is not None for word in (name, str(value))]
    status = _run("export", "--weights", weights, *options, allowed=(Unreachable.status,) if fall_back else ())
    if status == Unreachable.status:
        err.rule("WARNING")
        err.print("The ImageNet weights cannot be reached: serving UNTRAINED weights. Every answer is meaningless.")
        err.print("With a network, or the file in Torch Hub's cache: scripts/serve --weights imagenet")
        err.rule()
        _run("export", "--weights", "untrained", *options)


def _pack(archive: Path) -> None:
    _run("export.archive", "--output", str(archive))


def _run(module: str, *arguments: str, allowed: tuple[int, ...] = ()) -> int:
    """Runs one of our own steps in a process of its own; its words go to the terminal, its failure ends us too."""
    done = subprocess.run([sys.executable, "-P", "-m", module, *arguments], check=False)
    if done.returncode and done.returncode not in allowed:
        sys.exit(done.returncode)
    return done.returncode
