"""Bundle: the folder that an export writes and the archive is made of."""

import hashlib
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from rich.progress import Progress
from torch import nn

from export import (
    CARD,
    CLASSES,
    IMAGENET_CLASSES,
    NETWORK,
    Precision,
    agreement,
    calibration,
    fused,
    network,
    quantized,
)
from export.console import Problem, err
from export.weights import Weights
from handler import PARTS, cropping, hardware, scoring, transform
from handler.labels import ClassIndex, load_class_index


@dataclass(frozen=True)
class Bundle:
    """The content of an export: TorchScript, model card, class index."""

    network: bytes
    card: dict[str, Any]
    classes: ClassIndex

    def write(self, folder: Path) -> None:
        """Writes all three files. When the disk is full or the folder cannot be written to, it stays as it was."""
        folder.mkdir(parents=True, exist_ok=True)
        contents = {
            NETWORK: self.network,
            CARD: (json.dumps(self.card, indent=2) + "\n").encode(),
            CLASSES: class_index_json(self.classes),
        }
        for name in contents:
            if (folder / name).is_dir():
                raise Problem(f"{folder / name} is a folder; a file of that name is to be written")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for name, content in contents.items():
                Path(scratch, name).write_bytes(content)
                # What was compared with the eager network is what lies on the disk.
                if Path(scratch, name).read_bytes() != content:
                    raise Problem(f"{name} does not read as it was written; is the disk sound?")
            for name in contents:
                Path(scratch, name).replace(folder / name)


def check_writable(folder: Path) -> None:
    """Raises OSError where nothing could be written to a folder, before a long work. It need not be there yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


KINDS = {Precision.FP32: fused.ONEDNN_FP32, Precision.BF16: fused.ONEDNN_BF16, Precision.FP16: fused.PLAIN_FP16}


@dataclass(frozen=True)
class Quantization:
    """How to quantise: the folder with photos to calibrate and measure with, and the least share of held-out photos of
    which the best class must stay the same."""

    images: Path
    least_agreement: float


def make(weights: Weights, class_index: Path | None, how: Precision | Quantization = Precision.FP32) -> Bundle:
    """Exports weights to TorchScript and proves how well it agrees with the eager network.

    how: any precision but int8, or the way to int8. Raises Problem.
    """
    precision = Precision.INT8 if isinstance(how, Quantization) else how
    try:
        hardware.check(precision)
    except ValueError as error:
        raise Problem(str(error)) from error
    eager = network.build(weights.state)
    classes = class_index_for(class_index, outputs=len(weights.state["classifier.weight"]))
    content, proof = _quantized(eager, how) if isinstance(how, Quantization) else _fused(eager, how)
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
    return Bundle(content, card, classes)


def _fused(eager: nn.Module, precision: Precision) -> tuple[bytes, dict[str, Any]]:
    content = network.to_torchscript(network.Network(fused.Trunk(eager, KINDS[precision]), eager).eval())
    difference = agreement.check(eager, scoring.read(content, hardware.device(precision)), precision)
    tolerance = agreement.TOLERANCES[precision]
    return content, {"largest_logit_difference": difference, "tolerance": tolerance, "unit": "spread"}


def _quantized(eager: nn.Module, how: Quantization) -> tuple[bytes, dict[str, Any]]:
    images = calibration.read(how.images)
    with Progress(console=err, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("quantising", total=quantized.STEPS)
        made = quantized.quantize(eager, images.calibrating, lambda: progress.advance(task))
    content = network.to_torchscript(network.Network(made, eager).eval())
    found = agreement.compare(eager, scoring.read(content), images.held_out)
    if found.same_top1 < how.least_agreement:
        raise Problem(
            f"in int8 {found.same_top1:.1%} of {found.images} held-out photos keep their best class, "
            f"{how.least_agreement:.1%} are wanted: give more photos like those to be served, or a lower "
            "--min-agreement"
        )
    proof = {"calibrating_images": len(images.calibrating), "held_out": asdict(found)}
    return content, proof | {"images_sha256": calibration.digest(how.images)}


def class_index_for(path: Path | None, outputs: int) -> ClassIndex:
    """The class index at path, or ImageNet's, which must have as many classes as the network outputs."""
    try:
        classes = load_class_index(path or IMAGENET_CLASSES)
    except ValueError as error:
        raise Problem(str(error)) from error
    if len(classes) == outputs:
        return classes
    if path is None:
        raise Problem(f"the weights have {outputs} classes, ImageNet has 1000; name theirs with --class-index FILE")
    raise Problem(f"{path} names {len(classes)} classes, the weights have {outputs}")


def class_index_json(classes: ClassIndex) -> bytes:
    """{"0": ["n01440764", "tench"], …}, one line a class."""
    rows = enumerate(zip(classes.ids, classes.names, strict=True))
    return ("{\n" + ",\n".join(f'"{i}": {json.dumps(row)}' for i, row in rows) + "\n}\n").encode()
