"""Weights: load `imagenet`, `untrained` or a file."""

import torch

from export import UNTRAINED, checkpoint, imagenet
from export.checkpoint import Weights
from export.console import weights_file

SEED = 0  # of the untrained weights, so that they are the same on all machines


def load(source: str) -> Weights:
    """Load `imagenet`, `untrained`, or the path of a .pth or .safetensors file.

    Raises: CliError if the weights cannot be downloaded or read.
    """
    if source == "imagenet":
        return imagenet.load()
    if source == UNTRAINED:
        from torchvision.models import densenet121  # takes seconds, and loading other weights may fail before

        torch.manual_seed(SEED)
        return Weights(UNTRAINED, f"torchvision's initialisation, seed {SEED}", None, densenet121().state_dict())
    path = weights_file(source)
    return checkpoint.read(path, path.name, path.name)
