"""Weights: load `imagenet`, `untrained` or a file as a state dict of DenseNet-121 with modern key names."""

import hashlib
import io
import re
import socket
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor
from torchvision.models import DenseNet121_Weights, densenet121

from export.console import CliError, Unreachable

IMAGENET = DenseNet121_Weights.IMAGENET1K_V1
DOWNLOAD_TIMEOUT = 30  # seconds without a byte
SEED = 0  # of the untrained weights, so that they are the same on all machines

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


def load(source: str) -> Weights:
    """Load `imagenet`, `untrained`, or the path of a .pth or .safetensors file.

    Raises: CliError if the weights cannot be downloaded or read.
    """
    if source == "imagenet":
        return load_imagenet()
    if source == "untrained":
        torch.manual_seed(SEED)
        return Weights("untrained", f"torchvision's initialisation, seed {SEED}", None, densenet121().state_dict())
    return load_file(Path(source))


def load_imagenet(url: str = IMAGENET.url) -> Weights:
    """Load torchvision's published weights from the Torch Hub cache, or download them.

    The file name ends in the first digits of the sha256 (Torch Hub's convention), which are also checked for a cached
    file.

    Raises: CliError if the download fails or the file is damaged.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    digits = path.stem.rpartition("-")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # torch sets no timeout, so a network that drops packets would block it forever.
            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            raise Unreachable(
                f"cannot download the ImageNet weights ({getattr(error, 'reason', error)}); "
                f"put {path.name} into {path.parent} yourself, or give --weights FILE or --weights untrained"
            ) from error
        except RuntimeError as error:
            raise CliError(f"the download of {path.name} is damaged; try again ({error})") from error
        finally:
            socket.setdefaulttimeout(None)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(digits):
        raise CliError(f"{path} is damaged: its sha256 is {digest[:8]}…, not {digits}…; delete it and try again")
    return Weights(IMAGENET.name, url, digest, _state(path, content))


def load_file(path: Path) -> Weights:
    """Load a checkpoint of DenseNet-121 with any number of classes, without executing code in it.

    Raises: CliError if the file is missing, damaged or not a checkpoint.
    """
    if not path.is_file():
        raise CliError(f"no such weights file: {path}; --weights takes imagenet, untrained or a file")
    content = path.read_bytes()
    return Weights(path.name, path.name, hashlib.sha256(content).hexdigest(), _state(path, content))


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
