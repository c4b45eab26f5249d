"""Export weights: weights → eager network → TorchScript, compared with the eager network → archive."""

from enum import StrEnum
from pathlib import Path

import handler

_HERE = Path(__file__).parents[1]
# An installed wheel has no checkout; then the current folder is used.
ROOT = _HERE if (_HERE / "config.properties").exists() else Path.cwd()
IMAGENET_CLASSES = Path(handler.__file__).with_name("imagenet_class_index.json")
PHOTOS = Path(__file__).parent / "photos"
DEFAULT_FOLDER = ROOT / "build"
DEFAULT_ARCHIVE = ROOT / "model_store" / "densenet.mar"

# Files that an export writes; they have the same names in the archive.
NETWORK = "model.pt"
CARD = "model_card.json"
CLASSES = "index_to_name.json"  # the name and format that TorchServe's own handlers expect
FILES = (NETWORK, CARD, CLASSES)
UNTRAINED = "untrained"  # the weights' name in the model card and in --weights
NAMED_WEIGHTS = ("imagenet", UNTRAINED)  # values of --weights that are no files


class Precision(StrEnum):
    """The precision in which a network computes."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
