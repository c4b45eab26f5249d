"""python -m export.archive: pack an export and the handler into one archive for any TorchServe 0.12.

The same inputs give the same bytes: torch-model-archiver writes the current time and the file system's order into the
archive, so its output is repacked in a fixed order with a fixed time.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

import handler
from export import (
    CARD,
    CLASSES,
    DEFAULT_ARCHIVE,
    DEFAULT_FOLDER,
    FILES,
    NETWORK,
    Precision,
    console,
    evaluation,
    readable_card,
)
from export.console import CliError
from handler import PARTS, cores
from handler.reply import DESCRIPTION, MODEL_CARD
from handler.settings import Settings

HANDLER = Path(handler.__file__).parent
DEFAULT_VERSION = "1.0"
MANIFEST = "MAR-INF/MANIFEST.json"
CONFIG = "model-config.yaml"
# Changes to our model-config.yaml for a GPU, where a batch takes little longer than a single image.
ON_A_GPU = {"deviceType": "gpu", "batchSize": 32, "maxBatchDelay": 5}
_WORKERS_A_GPU = 2
_SHORT_DELAY = {"maxBatchDelay": 1}  # ms; without the key, TorchServe lets an incomplete batch wait 100
# Errors for damaged archives, depending on the place of the damage, and for other programs' archives.
_UNREADABLE = (OSError, EOFError, KeyError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile, yaml.YAMLError)
_PAGE = (".html", ".css", ".js", ".yaml")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file can hold


def build(
    folder: Path,
    archive: Path,
    *,
    version: str,
    workers: int | None = None,
    batch_size: int | None = None,
    config: Path = HANDLER / CONFIG,
) -> None:
    """Pack the export in `folder` into `archive`, whose stem becomes the model's name.

    workers: default_workers() by default. batch_size: that of `config` by default.

    Raises: CliError if the folder has no whole, current export, if a setting is invalid, or if the archiver fails.
    """
    card = _check_export(folder)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="densenet-archive-") as scratch:
        settings = _read_config(config, card)
        settings |= start_settings(workers or default_workers(card["precision"]), batch_size)
        packed = _run_archiver(Path(scratch), folder, archive.stem, version, settings)
        _repack(packed, partial := archive.with_suffix(".partial"))
    partial.replace(archive)


def _check_export(folder: Path) -> dict[str, Any]:
    """Return the card of the export in a folder.

    Raises: CliError if files are missing, of different exports, or of an older version of this project.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise CliError(f"{folder} has no export ({name} is missing); create one with python -m export")
    card: dict[str, Any] = json.loads((folder / CARD).read_bytes())
    if not is_servable(card):
        raise CliError(f"{folder} has an export of an older version; create it again with python -m export")
    for name, part in ((NETWORK, "network"), (CLASSES, "classes")):
        if card[part]["sha256"] != hashlib.sha256((folder / name).read_bytes()).hexdigest():
            raise CliError(f"{folder} has files of different exports ({name}, {CARD}); create it again")
    return card


def is_servable(card: Mapping[str, Any]) -> bool:
    """Return whether the current handler can load the network that the card describes."""
    return bool(card.get("network", {}).get("parts") == list(PARTS))


def default_workers(precision: str) -> int:
    """Return one worker per core, or two per GPU, so that one decodes while the other's batch is computed."""
    if precision != Precision.FP16:
        return cores.available()
    from torch import cuda  # takes seconds and is needed for this precision only

    return max(1, _WORKERS_A_GPU * cuda.device_count())


def is_current(archive: Path, folder: Path) -> bool:
    """Return whether the archive has the current export in `folder` and the current handler; ignore its settings."""
    files = _contents(folder)
    try:
        with zipfile.ZipFile(archive) as packed:
            return (
                set(packed.namelist()) == {*files, CONFIG, MANIFEST, MODEL_CARD}
                and all(packed.read(name) == path.read_bytes() for name, path in files.items())
                and packed.read(MODEL_CARD) == _readable_card(folder)
            )
    except _UNREADABLE:
        return False


def refresh(archive: Path, folder: Path) -> None:
    """Pack the current handler into an archive, which keeps its version, workers and settings.

    Raises: CliError if the folder has no whole, current export, or if the archive's settings are invalid by now.
    """
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(archive) as packed:
        config = Path(packed.extract(CONFIG, scratch))
        workers = yaml.safe_load(config.read_text())["minWorkers"]
        try:
            build(folder, archive, version=read_version(archive), workers=workers, config=config)
        except CliError as error:
            if str(config) not in str(error):
                raise
            reason = str(error).replace(str(config), f"it keeps its {CONFIG}")
            message = f"cannot pack {archive} again: {reason}; scripts/archive packs it with new settings"
            raise CliError(message) from error


def start_settings(workers: int | None = None, batch_size: int | None = None) -> dict[str, int]:
    """Return the values of model-config.yaml for these numbers, which TorchServe reads only from an archive."""
    settings = {"minWorkers": workers, "maxWorkers": workers, "batchSize": batch_size}
    return {name: value for name, value in settings.items() if value is not None}


def copy_with_settings(archive: Path, target: Path, settings: Mapping[str, Any]) -> None:
    """Copy an archive with other top-level values in its model-config.yaml."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as packed:
        config = yaml.safe_load(packed.read(CONFIG)) | settings
    _repack(archive, target, {CONFIG: yaml.safe_dump(config).encode()})


def read_card(archive: Path) -> dict[str, Any]:
    """Return the model card in an archive.

    Raises: CliError if the file is missing, damaged or not one of our archives.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            if damaged := packed.testzip():
                raise CliError(f"{archive} is damaged ({damaged}); create it again with --rebuild and --weights")
            card = json.loads(packed.read(CARD))
            if isinstance(card, dict):
                return card
            raise ValueError("the model card is not an object")
    except _UNREADABLE as error:
        raise CliError(
            f"{archive} is damaged or not an archive of this project; create it again with --rebuild and --weights"
        ) from error


def read_config(archive: Path) -> dict[str, Any]:
    """Return the model-config.yaml in an archive that read_card() has read."""
    with zipfile.ZipFile(archive) as packed:
        return dict(yaml.safe_load(packed.read(CONFIG)))


def read_classes(archive: Path) -> bytes:
    """Return the class index in an archive that read_card() has read."""
    with zipfile.ZipFile(archive) as packed:
        return packed.read(CLASSES)


def read_version(archive: Path) -> str:
    """Return the version that TorchServe will list.

    Raises: CliError if the file is missing, damaged or not an archive.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            return str(json.loads(packed.read(MANIFEST))["model"]["modelVersion"])
    except _UNREADABLE as error:
        raise CliError(f"{archive} is damaged or not an archive of torch-model-archiver") from error


def _contents(folder: Path) -> dict[str, Path]:
    """Return path in the archive → file, except for the files that the archiver generates."""
    page = [path for path in (HANDLER / "page").rglob("*") if path.suffix in _PAGE]
    code = [path for path in HANDLER.rglob("*.py") if path.name != "entry.py"]
    modules = {str(path.relative_to(HANDLER.parent)): path for path in (HANDLER / DESCRIPTION, *page, *code)}
    return modules | {"entry.py": HANDLER / "entry.py"} | {name: folder / name for name in FILES}


def _readable_card(folder: Path) -> bytes:
    return readable_card.render(json.loads((folder / CARD).read_bytes()))


def _run_archiver(scratch: Path, folder: Path, name: str, version: str, settings: Mapping[str, Any]) -> Path:
    # The archiver copies the contents of an extra folder to the archive's root, so the parent of handler/ is staged.
    staged = scratch / "extra"
    for inside, path in _contents(folder).items():
        if path.name not in ("entry.py", NETWORK):
            (staged / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staged / inside)
    (staged / MODEL_CARD).write_bytes(_readable_card(folder))
    (scratch / CONFIG).write_text(yaml.safe_dump(settings))
    # The archiver empties $TMPDIR/<model name> before it starts, so it gets its own TMPDIR.
    (scratch / "tmp").mkdir()
    command = [
        Path(sys.executable).with_name("torch-model-archiver"),
        *("--model-name", name, "--version", version, "--export-path", "."),
        *("--serialized-file", (folder / NETWORK).resolve(), "--handler", HANDLER / "entry.py"),
        *("--extra-files", staged.name, "--config-file", CONFIG),
        *("--archive-format", "zip-store"),  # weights do not compress
    ]
    environment = os.environ | {"TMPDIR": str(scratch / "tmp")}
    # It runs in the scratch folder, because brackets and commas in the path of --extra-files have a special meaning.
    done = subprocess.run(
        list(map(str, command)), cwd=scratch, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise CliError(f"torch-model-archiver failed: {reason}")
    return scratch / f"{name}.mar"


def _read_config(path: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """Read model-config.yaml for the network that the card describes.

    Raises: CliError for invalid settings, which otherwise would fail only when a worker starts.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        Settings.from_config(config, card["classes"]["count"])
        if card["precision"] == Precision.FP16 and path == HANDLER / CONFIG:
            config |= ON_A_GPU | {"handler": config["handler"] | {"network_batch": ON_A_GPU["batchSize"]}}
        return _SHORT_DELAY | dict(config)
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = str(error).removeprefix(f"{CONFIG}: ").replace("\n", " ")
        raise CliError(f"{path}: {reason}") from error


def _repack(source: Path, target: Path, replaced: Mapping[str, bytes] | None = None) -> None:
    try:
        with zipfile.ZipFile(source) as packed, zipfile.ZipFile(target, "w") as repacked:
            for name in sorted(packed.namelist()):
                content = (replaced or {}).get(name) or packed.read(name)
                if name == MANIFEST:
                    manifest = json.loads(content) | {"createdOn": "01/01/1980 00:00:00"}
                    content = json.dumps(manifest, indent=2, sort_keys=True).encode()
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.external_attr = 0o644 << 16
                repacked.writestr(entry, content)
    except BaseException:  # an interruption, too, must not leave a part of an archive
        target.unlink(missing_ok=True)
        raise


def main(
    model: Annotated[Path, typer.Option(help="Folder written by python -m export.", metavar="DIR")] = DEFAULT_FOLDER,
    output: Annotated[
        Path, typer.Option(help="Archive to write; its stem is the model's name.", metavar="FILE")
    ] = DEFAULT_ARCHIVE,
    version: Annotated[str, typer.Option(help="Version in TorchServe's list and in answers.")] = DEFAULT_VERSION,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of workers. [default: one per core; fp16: two per GPU]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of requests in a batch. [default: that of --config]")
    ] = None,
    config: Annotated[
        Path,
        typer.Option(
            help="model-config.yaml with batch size, timeouts and handler settings.",
            metavar="FILE",
            callback=console.existing_file,
        ),
    ] = HANDLER / CONFIG,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="File of scripts/evaluate --calibrate, for the export's model card.",
            metavar="FILE",
            callback=console.existing_file,
        ),
    ] = None,
) -> None:
    """Pack an export and the handler into one self-contained archive for any TorchServe 0.12."""
    if calibration:
        _check_export(model)
        evaluation.add(model, calibration)
    build(model, output, version=version, workers=workers, batch_size=batch_size, config=config)
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    count = read_config(output)["minWorkers"]
    console.out.print(f"wrote {output}: version {version}, {count} worker(s), sha256 {digest}", markup=False)


if __name__ == "__main__":
    console.run(main, "export.archive")
