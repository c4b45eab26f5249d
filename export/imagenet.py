"""ImageNet: load IMAGENET1K_V1 from this machine's caches, else from the first source that the network lets through.

The sources are torchvision's address and the Hugging Face hub. Both have the same network: timm's `tv_in1k` is
torchvision's file, converted to safetensors.
"""

import logging
import os
import re
import socket
import sys
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import torch

from export import checkpoint, network
from export.checkpoint import Weights
from export.console import CliError, Unreachable

# torchvision's DenseNet121_Weights.IMAGENET1K_V1; importing torchvision takes seconds, and a download may fail.
NAME = "IMAGENET1K_V1"
URL = "https://download.pytorch.org/models/densenet121-a639ec97.pth"
CLASSES = 1000
HUB_REPOSITORY, HUB_FILE = "timm/densenet121.tv_in1k", "model.safetensors"
DOWNLOAD_TIMEOUT = 10  # seconds without a byte; a network that drops packets costs this for each address of a host

# The hub's settings where the user has none. Xet would need further hosts, which a network may not let through, and it
# has time-outs of its own.
_HUB_DEFAULTS = {
    "HF_HUB_ETAG_TIMEOUT": "5",
    "HF_HUB_DOWNLOAD_TIMEOUT": str(DOWNLOAD_TIMEOUT),
    "HF_HUB_DISABLE_XET": "1",
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def load(url: str = URL) -> Weights:
    """Load the published weights; those that are on this machine need no network.

    Raises:
        Unreachable: if no source can be reached; one line names each.
        CliError: if a file is damaged or has another network.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if cached.exists():
        return _read_published(cached, url)
    for name, value in _HUB_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if path := _cached_by_hub():
        return _read_of_hub(path)
    try:
        return _download(cached, url)
    except CliError as error:  # not kept: it holds the connection
        kind, reason = type(error), str(error)
    try:
        return _download_from_hub()
    except CliError as error:
        raise (Unreachable if {kind, type(error)} == {Unreachable} else CliError)(
            f"cannot download the ImageNet weights: torchvision's {url}: {reason}; "
            f"Hugging Face's {HUB_REPOSITORY}: {error}; put {cached.name} into {cached.parent} yourself, "
            "or give --weights FILE, or --weights untrained to try everything out"
        ) from error


def _read_published(path: Path, url: str) -> Weights:
    """Read torchvision's file, whose name ends in the first digits of its sha256 (Torch Hub's convention)."""
    return checkpoint.read(path, NAME, url, sha256=path.stem.rpartition("-")[2])


def _download(path: Path, url: str) -> Weights:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # torch sets no timeout, so a network that drops packets would block it forever.
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        digits = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=sys.stderr.isatty())
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise Unreachable(_in_one_line(getattr(error, "reason", error))) from error
    except RuntimeError as error:
        raise CliError(f"the download is damaged ({_in_one_line(error)})") from error
    finally:
        socket.setdefaulttimeout(None)
    return _read_published(path, url)


def _cached_by_hub() -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # takes half a second, and most starts do not need it

    path = try_to_load_from_cache(HUB_REPOSITORY, HUB_FILE)
    return Path(path) if isinstance(path, str) else None


def _download_from_hub() -> Weights:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings are in our one line
    try:
        # Ask once beforehand: a download that gets no answer asks again for minutes.
        get_hf_file_metadata(hf_hub_url(HUB_REPOSITORY, HUB_FILE))
        path = hf_hub_download(HUB_REPOSITORY, HUB_FILE)
    except Exception as error:  # of several libraries, which have no class in common
        if isinstance(error, OSError) and error.errno and not isinstance(error, (ConnectionError, TimeoutError)):
            raise  # the disk's, not the network's
        raise Unreachable(_in_one_line(error)) from error
    return _read_of_hub(Path(path))


def _read_of_hub(path: Path) -> Weights:
    """Read the hub's file from its cache, `…/snapshots/COMMIT/FILE`, and check that it is a DenseNet-121.

    The cache names a large file by the sha256 that the hub gave.
    """
    blob = path.readlink().name if path.is_symlink() else ""
    source = f"hf://{HUB_REPOSITORY}@{path.parent.name}/{HUB_FILE}"
    weights = checkpoint.read(path, NAME, source, sha256=blob if _SHA256.fullmatch(blob) else "")
    try:
        classes = len(network.build(weights.state).get_parameter("classifier.weight"))
        if classes != CLASSES:
            raise CliError(f"it has {classes} classes, not {CLASSES}")
    except CliError as error:
        raise CliError(f"{path}: {error}; delete it and try again") from error
    return weights


def _in_one_line(error: object) -> str:
    """Return the first line of an error's text, or its class if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
