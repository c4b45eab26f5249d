"""From weights to an archive: weights → eager network → TorchScript, checked against the eager one → archive."""

from enum import StrEnum
from pathlib import Path

import handler

_HERE = Path(__file__).parents[1]
# Beside an installed wheel there is no checkout; then it is the folder in which the command runs.
ROOT = _HERE if (_HERE / "config.properties").exists() else Path.cwd()
IMAGENET_CLASSES = Path(handler.__file__).with_name("imagenet_class_index.json")
PHOTOS = Path(__file__).parent / "photos"
DEFAULT_FOLDER = ROOT / "build"
DEFAULT_ARCHIVE = ROOT / "model_store" / "densenet.mar"

# What an export writes, and the archive holds under the same names.
NETWORK = "model.pt"
CARD = "model_card.json"
CLASSES = "index_to_name.json"  # the name and form that TorchServe's own handlers expect


class Precision(StrEnum):
    """What a network computes in."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
