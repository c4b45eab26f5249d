"""Bundle: the files of an export, from which the archive is built."""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export import (
    CARD,
    CLASSES,
    FILES,
    IMAGENET_CLASSES,
    NETWORK,
    Precision,
    agreement,
    calibration,
    fused,
    network,
    quantizer,
)
from export.checkpoint import Weights
from export.console import CliError
from export.layer_errors import LayerError
from export.progress import SILENT, Steps
from handler import PARTS, cropping, hardware, scoring, transform
from handler.ranking import ClassIndex, load_class_index


@dataclass(frozen=True)
class Bundle:
    """The content of an export: TorchScript, model card, class index.

    comparison: what the comparison with the eager network measured, as a sentence. It is not written, because it
    differs between processors, and the same inputs must give the same files.
    """

    network: bytes
    card: dict[str, Any]
    classes: ClassIndex
    comparison: str

    def write(self, folder: Path) -> None:
        """Write all three files, or none if the disk is full, the folder is not writable, or this is interrupted.

        Raises: CliError if a file's name is taken by a folder or a file does not read back; OSError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        contents = {
            NETWORK: self.network,
            CARD: (json.dumps(self.card, indent=2) + "\n").encode(),
            CLASSES: class_index_json(self.classes),
        }
        for name in contents:
            if (folder / name).is_dir():
                raise CliError(f"{folder / name} is a folder, but the export writes a file there; remove the folder")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            old.mkdir()
            for name, content in contents.items():
                (new / name).write_bytes(content)
                # The bytes on the disk must be those that were compared with the eager network.
                if (new / name).read_bytes() != content:
                    raise CliError(f"{name} reads back differently than it was written; check the disk")
            _exchange(new, folder, old)


def _exchange(new: Path, folder: Path, old: Path) -> None:
    """Move the export in `new` into a folder, and the folder's earlier one to `old`; if that fails, move both back.

    archive.build() refuses what a kill in between leaves behind.
    """
    try:
        for name in FILES:
            if (folder / name).exists():
                (folder / name).replace(old / name)
            (new / name).replace(folder / name)
    except BaseException:
        for name in FILES:  # where the files are tells how far it came, even after a signal
            if not (new / name).exists():
                (folder / name).replace(new / name)
            if (old / name).exists():
                (old / name).replace(folder / name)
        raise


def check_writable(folder: Path) -> None:
    """Check before a long export that a folder, which may not exist yet, is writable.

    Raises: OSError if it is not.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing):
        pass


KINDS = {Precision.FP32: fused.FP32, Precision.BF16: fused.ONEDNN_BF16, Precision.FP16: fused.PLAIN_FP16}


@dataclass(frozen=True)
class Quantization:
    """Options of int8: a folder of photos, and the minimum share of held-out photos that keep their best class."""

    images: Path
    min_agreement: float


_BUILDING = "building the eager network"
_REWRITING = "rewriting it"
_READING = "reading the photos"
_QUANTISING = "quantising it"
_TRACING = "tracing it"
_COMPARING = "comparing it with the eager network"
WRITING = "writing it"
# The steps with their seconds on two busy cores; int8 with 128 calibrating and 42 held-out photos.
_STEPS_FUSED = {_BUILDING: 2, _REWRITING: 2, _TRACING: 9, _COMPARING: 27, WRITING: 1}
_STEPS_QUANTIZED = {_BUILDING: 2, _READING: 5, _QUANTISING: 216, _TRACING: 27, _COMPARING: 60, WRITING: 1}


def steps(how: Precision | Quantization) -> Mapping[str, float]:
    """Return the steps that `make` begins, and WRITING, with about the share of the time that each takes."""
    return _STEPS_QUANTIZED if isinstance(how, Quantization) else _STEPS_FUSED


def make(
    weights: Weights,
    class_index: Path | None,
    how: Precision | Quantization = Precision.FP32,
    progress: Steps = SILENT,
    layer_measured: Callable[[LayerError], object] = lambda error: None,
) -> Bundle:
    """Export weights to TorchScript and measure the agreement with the eager network.

    how: a precision other than int8, or the options of int8. layer_measured: called with the error of each layer in
    int8, before the networks are compared.

    Raises: CliError if the hardware lacks the precision, the weights do not fit, or the networks disagree.
    """
    precision = Precision.INT8 if isinstance(how, Quantization) else how
    try:
        hardware.check(precision)
    except ValueError as error:
        raise CliError(str(error)) from error
    progress.begin(_BUILDING)
    import torchvision  # takes seconds; see network.build()

    eager = network.build(weights.state)
    classes = class_index_for(class_index, outputs=len(weights.state["classifier.weight"]))
    if isinstance(how, Quantization):
        content, proof, comparison = _quantized(eager, how, progress, layer_measured)
    else:
        content, proof, comparison = _fused(eager, how, progress)
    card = {
        "architecture": "DenseNet-121",
        "weights": {"name": weights.name, "source": weights.source, "sha256": weights.sha256},
        "precision": precision.value,
        "network": {
            "file": NETWORK,
            "format": "TorchScript",
            "parts": list(PARTS),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        "input": {
            "shape": ["N", 3, cropping.CROP, cropping.CROP],
            "dtype": "float32",
            "resize": cropping.RESIZE,
            "crop": cropping.CROP,
            "mean": list(transform.MEAN),
            "std": list(transform.STD),
        },
        "classes": {"count": len(classes), "sha256": hashlib.sha256(class_index_json(classes)).hexdigest()},
        "agreement": proof,
        "exported_with": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
    return Bundle(content, card, classes, comparison)


def _fused(eager: nn.Module, precision: Precision, progress: Steps) -> tuple[bytes, dict[str, Any], str]:
    progress.begin(_REWRITING)
    rewritten = network.Network(fused.Features(eager, KINDS[precision]), eager).eval()
    progress.begin(_TRACING)
    content = network.to_torchscript(rewritten)
    exported = scoring.read(content, hardware.device(precision))
    progress.begin(_COMPARING, agreement.BATCHES)
    difference = agreement.check(eager, exported, precision, progress.advance)
    tolerance = agreement.TOLERANCES[precision]
    comparison = f"logits differ by at most {difference:.1e} standard deviations, {tolerance:g} is allowed"
    return content, {"tolerance": tolerance, "unit": "standard deviations of an image's logits"}, comparison


def _quantized(
    eager: nn.Module, how: Quantization, progress: Steps, layer_measured: Callable[[LayerError], object]
) -> tuple[bytes, dict[str, Any], str]:
    progress.begin(_READING)
    images = calibration.read(how.images)
    progress.begin(_QUANTISING, quantizer.STEPS)
    made = quantizer.quantize(eager, images.calibrating, progress.advance)
    for error in made.errors:
        layer_measured(error)
    progress.begin(_TRACING)
    content = network.to_torchscript(network.Network(made.features, eager).eval())
    exported = scoring.read(content)
    progress.begin(_COMPARING, math.ceil(len(images.held_out) / agreement.BATCH))
    held_out = agreement.compare(eager, exported, images.held_out, progress.advance)
    if held_out.same_top1 < how.min_agreement:
        raise CliError(
            f"in int8 {held_out.same_top1:.1%} of {held_out.images} held-out photos keep their best class, "
            f"{how.min_agreement:.1%} are required; give more representative photos or a lower --min-agreement"
        )
    proof = {"calibrating_images": len(images.calibrating), "held_out": asdict(held_out)}
    comparison = (
        f"of {held_out.images} held-out photos {held_out.same_top1:.1%} keep their best class, "
        f"probabilities move by {held_out.mean_distance:.1%} on average"
    )
    return content, proof | {"images_sha256": calibration.digest(how.images)}, comparison


def class_index_for(path: Path | None, outputs: int) -> ClassIndex:
    """Read the class index at path, or ImageNet's.

    Raises: CliError if it is invalid or its number of classes differs from the network's outputs.
    """
    try:
        classes = load_class_index(path or IMAGENET_CLASSES)
    except ValueError as error:
        raise CliError(str(error)) from error
    if len(classes) == outputs:
        return classes
    if path is None:
        raise CliError(
            f"the weights have {outputs} classes, ImageNet has 1000; give their class index with --class-index FILE"
        )
    raise CliError(f"{path} names {len(classes)} classes, the weights have {outputs}")


def class_index_json(classes: ClassIndex) -> bytes:
    """Return the class index as JSON, {"0": ["n01440764", "tench"], …}, with one line per class."""
    rows = enumerate(zip(classes.ids, classes.names, strict=True))
    return ("{\n" + ",\n".join(f'"{i}": {json.dumps(row)}' for i, row in rows) + "\n}\n").encode()
