"""Checkpoint: read a file of weights as a state dict of DenseNet-121 with modern key names."""

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from export.console import CliError

# torchvision's published file has module names with dots, such as norm.1, which torch no longer allows.
# torchvision.models.densenet renames them in the same way when it loads the file.
_DOTTED = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


@dataclass(frozen=True)
class Weights:
    """Tensors by parameter name, and their origin. sha256: of the file; None for untrained weights."""

    name: str
    source: str
    sha256: str | None
    state: Mapping[str, Tensor]


def read(path: Path, name: str, source: str, *, sha256: str = "") -> Weights:
    """Read a .pth or .safetensors file with any number of classes, without executing code in it.

    sha256: the first digits that the file's digest must have.

    Raises: CliError if the file is damaged or not a checkpoint.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(sha256):
        raise CliError(f"{path} is damaged: its sha256 is {digest[:8]}…, not {sha256[:8]}…; delete it and try again")
    return Weights(name, source, digest, _state(path, content))


def _state(path: Path, content: bytes) -> Mapping[str, Tensor]:
    document = _read_safetensors(path, content) if path.suffix == ".safetensors" else _read_torch(path, content)
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(document, Mapping) and isinstance(document.get(wrapper), Mapping):
            document = document[wrapper]
    if not isinstance(document, Mapping) or not all(isinstance(value, Tensor) for value in document.values()):
        raise CliError(f"{path} has no state dict; save one with torch.save(network.state_dict(), FILE)")
    return {_modern(str(name)): tensor for name, tensor in document.items()}


def _read_safetensors(path: Path, content: bytes) -> object:
    try:
        return load_safetensors(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CliError(f"{path} is damaged, not a safetensors file, or has unknown dtypes ({error})") from error


def _read_torch(path: Path, content: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below replaces them in one line
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types, most with long messages
        raise CliError(
            f"{path} is damaged, or contains more than tensors and was not loaded; "
            "save it with torch.save(network.state_dict(), FILE)"
        ) from error


def _modern(name: str) -> str:
    return _DOTTED.sub(r"\1\2", name.removeprefix("module."))
