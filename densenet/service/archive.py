"""Make sure that the archive exists, with the requested weights and the current handler."""

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export import CARD, CLASSES, DEFAULT_FOLDER, Precision
from export.archive import DEFAULT_VERSION, is_current, is_servable, read_card, read_classes, refresh
from export.console import CliError, Unreachable, check_calibration, err, weights_file

# Name of the weights in an archive's card → value of --weights. Any other name is that of a weights file.
WEIGHTS_OPTIONS = {"IMAGENET1K_V1": "imagenet", "untrained": "untrained"}


@dataclass(frozen=True)
class ArchiveOptions:
    """The contents requested for an archive; None accepts any value.

    version: what to name the archive if it has to be packed.
    """

    weights: str | None = None
    class_index: Path | None = None
    precision: Precision | None = None
    calibration_images: Path | None = None
    version: str = DEFAULT_VERSION


def ensure(archive: Path, requested: ArchiveOptions, *, rebuild: bool, fall_back: bool = False) -> None:
    """Export and pack whatever is missing or differs from the request.

    What the request does not name, and the archive has, is kept and printed: weights, class names, precision. If there
    is no archive yet, use ImageNet's weights.

    fall_back: whether a first archive may have untrained weights, if ImageNet's cannot be downloaded.

    Raises:
        CliError: if the archive cannot be read, a requested file does not exist, or what is kept needs another option.
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
        make_again(archive, requested)
    elif _is_of_last_export(card) and not is_current(archive, DEFAULT_FOLDER):
        err.print("the handler has changed; packing the archive again")
        refresh(archive, DEFAULT_FOLDER)


def make_again(
    present: Path, requested: ArchiveOptions, archive: Path | None = None, folder: Path = DEFAULT_FOLDER
) -> None:
    """Export and pack an archive; keep of the present one what the request does not name, and print it.

    archive: the file to write; by default the present one. folder: where to export to.

    Raises:
        CliError: if the options do not fit together, or what is kept needs another option.
    """
    card = read_card(present)
    weights = requested.weights or _own_weights(present, card)
    precision = requested.precision or Precision(card["precision"])
    if precision is Precision.INT8 and not (requested.precision or requested.calibration_images):
        raise CliError(
            f"keeping int8, the precision of the present {present.name}, needs --calibration-images DIR, a folder of "
            "photos like those you serve; or give another precision, such as --precision fp32"
        )
    kept = [] if requested.weights else [f"the weights {weights}"]
    kept += [] if requested.precision else [precision.value]
    with tempfile.TemporaryDirectory(prefix="densenet-classes-") as scratch:
        class_index = requested.class_index
        if class_index is None and _has_weights(card, requested.weights):
            class_index = Path(scratch, CLASSES)
            class_index.write_bytes(read_classes(present))
            kept.append("the class names")
        if kept:
            err.print(f"keeping {' and '.join(kept)} of the present {present.name}", markup=False)
        options = replace(requested, precision=precision, class_index=class_index)
        _make(archive or present, weights, options, folder)


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
        except ValueError as error:
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


def _make(
    archive: Path, weights: str, requested: ArchiveOptions, folder: Path = DEFAULT_FOLDER, *, fall_back: bool = False
) -> None:
    """Export the weights and pack the archive. fall_back: use untrained weights if ImageNet's cannot be downloaded.

    Raises:
        CliError: if the options do not fit together, or the archive's folder is not writable.
    """
    check_calibration(requested.precision, requested.calibration_images)
    _check_store(archive.parent)
    values = (
        ("--class-index", requested.class_index),
        ("--precision", requested.precision),
        ("--calibration-images", requested.calibration_images),
    )
    options = [word for name, value in values if value is not None for word in (name, str(value))]
    options += ["--output", str(folder)]
    status = _run("export", "--weights", weights, *options, allowed=(Unreachable.status,) if fall_back else ())
    if status == Unreachable.status:
        err.print(
            "WARNING: the ImageNet weights cannot be downloaded; this first start serves UNTRAINED weights instead"
        )
        _run("export", "--weights", "untrained", *options)
    _run("export.archive", "--model", str(folder), "--output", str(archive), "--version", requested.version)


def _check_store(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CliError(f"cannot write an archive to the model store {folder}: {error.strerror}") from error


def _run(module: str, *arguments: str, allowed: tuple[int, ...] = ()) -> int:
    """Run one of our modules in a new process, which prints to the terminal; exit with its status if it fails."""
    process = subprocess.run([sys.executable, "-P", "-m", module, *arguments], check=False)
    if process.returncode and process.returncode not in allowed:
        sys.exit(process.returncode)
    return process.returncode
