"""Make sure that the archive exists, with the requested weights and the current handler."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export import CARD, DEFAULT_FOLDER, Precision
from export.archive import is_current, is_servable, read_card, refresh
from export.console import CliError, Unreachable, err, weights_file

# Name of the weights in an archive's card → value of --weights. Any other name is that of a weights file.
WEIGHTS_OPTIONS = {"IMAGENET1K_V1": "imagenet", "untrained": "untrained"}


@dataclass(frozen=True)
class ArchiveOptions:
    """The contents requested for an archive; None accepts any value."""

    weights: str | None = None
    class_index: Path | None = None
    precision: Precision | None = None
    calibration_images: Path | None = None


def ensure(archive: Path, requested: ArchiveOptions, *, rebuild: bool, fall_back: bool = False) -> None:
    """Export and pack whatever is missing or differs from the request.

    If the request names no weights, keep the archive's own. If there is no archive yet, use ImageNet's weights.

    fall_back: whether a first archive may have untrained weights, if ImageNet's cannot be downloaded.

    Raises:
        CliError: if the archive cannot be read, or a requested file does not exist.
    """
    if not archive.exists():
        time = "some minutes" if requested.precision is Precision.INT8 else "about a minute"
        err.print(f"first start: exports the network, packs the archive and starts TorchServe: {time}")
        _make(archive, requested.weights or "imagenet", requested, fall_back=fall_back)
        return
    try:
        card = read_card(archive)
    except CliError:
        if not (rebuild and requested.weights):
            raise
        _make(archive, requested.weights, requested)
        return
    outdated = not is_servable(card)
    if outdated:
        err.print("the archive was made by an older export; exporting again")
    if rebuild or outdated or not satisfies(card, requested):
        requested = replace(requested, precision=requested.precision or Precision(card["precision"]))
        _make(archive, requested.weights or _own_weights(archive, card), requested)
    elif _is_of_last_export(card) and not is_current(archive, DEFAULT_FOLDER):
        err.print("the handler has changed; packing the archive again")
        refresh(archive, DEFAULT_FOLDER)


def _own_weights(archive: Path, card: dict[str, Any]) -> str:
    """Return the --weights value that exports the archive's own weights again."""
    name = card["weights"]["name"]
    weights = WEIGHTS_OPTIONS.get(name)
    if weights is None:
        raise CliError(f"{archive.name} was made from the weights file {name}; name it again: --weights FILE")
    return weights


def satisfies(card: dict[str, Any], requested: ArchiveOptions) -> bool:
    """Return whether an archive with this card matches the request.

    Raises:
        CliError: if a requested file does not exist.
    """
    if requested.precision is not None and card["precision"] != requested.precision:
        return False
    if requested.calibration_images is not None and not _was_calibrated_with(card, requested.calibration_images):
        return False
    return _has_classes(card, requested.class_index) and _has_weights(card, requested.weights)


def _was_calibrated_with(card: dict[str, Any], folder: Path) -> bool:
    from export.calibration import digest  # imports torch, which takes seconds; only this option needs it

    return bool(card["agreement"].get("images_sha256") == digest(folder))


def _has_classes(card: dict[str, Any], class_index: Path | None) -> bool:
    if class_index is not None:
        from export.bundle import class_index_json  # imports torch, which takes seconds; only this option needs it
        from handler.ranking import load_class_index

        try:
            content = class_index_json(load_class_index(class_index))
        except (OSError, ValueError) as error:
            raise CliError(str(error)) from error
        return bool(card["classes"]["sha256"] == hashlib.sha256(content).hexdigest())
    return True


def _has_weights(card: dict[str, Any], weights: str | None) -> bool:
    archived = card["weights"]
    if weights is None:
        return True
    if weights in WEIGHTS_OPTIONS.values():
        return WEIGHTS_OPTIONS.get(archived["name"]) == weights
    return bool(archived["sha256"] == hashlib.sha256(weights_file(weights).read_bytes()).hexdigest())


def _is_of_last_export(card: dict[str, Any]) -> bool:
    path = DEFAULT_FOLDER / CARD
    return path.exists() and bool(json.loads(path.read_bytes()) == card)


def _make(archive: Path, weights: str, requested: ArchiveOptions, *, fall_back: bool = False) -> None:
    """Export the weights and pack the archive. fall_back: use untrained weights if ImageNet's cannot be downloaded."""
    values = (
        ("--class-index", requested.class_index),
        ("--precision", requested.precision),
        ("--calibration-images", requested.calibration_images),
    )
    options = [word for name, value in values if value is not None for word in (name, str(value))]
    status = _run("export", "--weights", weights, *options, allowed=(Unreachable.status,) if fall_back else ())
    if status == Unreachable.status:
        err.print(
            "WARNING: the ImageNet weights cannot be downloaded; this first start serves UNTRAINED weights instead"
        )
        _run("export", "--weights", "untrained", *options)
    _run("export.archive", "--output", str(archive))


def _run(module: str, *arguments: str, allowed: tuple[int, ...] = ()) -> int:
    """Run one of our modules in a new process, which prints to the terminal; exit with its status if it fails."""
    process = subprocess.run([sys.executable, "-P", "-m", module, *arguments], check=False)
    if process.returncode and process.returncode not in allowed:
        sys.exit(process.returncode)
    return process.returncode
