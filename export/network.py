"""Network: the eager DenseNet-121 of a state dict, and what becomes of it in TorchScript."""

import copy
import io
import warnings
import zipfile
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models import densenet121

from export.console import Problem
from handler.cropping import CROP

FEATURES = 1024  # inputs of DenseNet-121's classifier


def build(state: Mapping[str, Tensor]) -> nn.Module:
    """torchvision's DenseNet-121 in eval mode with these tensors; the classifier's rows give the classes.

    Raises Problem naming the first tensor that is missing, unknown or of the wrong shape.
    """
    classifier = state.get("classifier.weight")
    if classifier is None or classifier.ndim != 2 or classifier.shape[1] != FEATURES:
        found = "none" if classifier is None else f"one of shape {tuple(classifier.shape)}"
        raise Problem(f"not a DenseNet-121: classifier.weight must be (classes, {FEATURES}), there is {found}")
    if classifier.shape[0] < 2:
        raise Problem("this checkpoint has one class only; there is nothing to tell apart")
    network: nn.Module = densenet121(num_classes=classifier.shape[0]).eval()
    expected = network.state_dict()
    # Counters of training steps; files older than they are lack them, and nothing reads them in eval mode.
    missing = [n for n in expected if n not in state and not n.endswith("num_batches_tracked")]
    unknown = [n for n in state if n not in expected]
    if missing or unknown:
        wrong = f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
        raise Problem(f"not a DenseNet-121: {wrong} ({len(missing)} missing, {len(unknown)} unknown tensors)")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise Problem(f"not a DenseNet-121: {name} is {tuple(tensor.shape)}, must be {tuple(expected[name].shape)}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise Problem(f"{name} holds values that are not finite; this checkpoint cannot be served")
    network.load_state_dict(expected | dict(state))
    return network


class Head(nn.Module):
    """The end of the network: activations (N, P, 1024) of P places in a picture → logits (N, classes), for any P."""

    def __init__(self, eager: nn.Module) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(eager.get_submodule("classifier"))

    def forward(self, activations: Tensor) -> Tensor:
        """As the class says. Since it is linear, a logit is the mean of the logits of all places."""
        logits: Tensor = self.classifier(activations.mean(1))
        return logits


class Network(nn.Module):
    """float32 (N, 3, 224, 224), normalized → float32 logits (N, classes), for any N; in two parts, so that what the
    trunk saw can be asked for."""

    def __init__(self, trunk: nn.Module, eager: nn.Module) -> None:
        """trunk: pictures → activations (N, 49, 1024). eager: torchvision's, whose classifier is copied."""
        super().__init__()
        self.trunk = trunk
        self.head = Head(eager)

    def forward(self, images: Tensor) -> Tensor:
        """As the class says."""
        logits: Tensor = self.head(self.trunk(images))
        return logits


def to_torchscript(network: Network) -> bytes:
    """Traces a network in eval mode; the bytes of the TorchScript file.

    The trace holds for any batch size of float32 (N, 3, 224, 224). It is frozen when it is loaded, since the packed
    weights that freezing can put into it are not for keeping (handler/scoring.py).
    """
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; versions are pinned
        traced = torch.jit.trace(network, torch.zeros(1, 3, CROP, CROP))
        # Saved through a buffer: a file's name would become part of its content, and a full disk no OSError.
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
    return _without_source_lines(buffer)


def _without_source_lines(script: io.BytesIO) -> bytes:
    """Of a TorchScript file all but the records of which line of which file each operator came from, and the checksum
    over all: with the path of this checkout in them, the same network would be another file in every folder."""
    kept = io.BytesIO()
    with zipfile.ZipFile(script) as whole, zipfile.ZipFile(kept, "w") as file:
        for record in whole.infolist():
            if not record.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                file.writestr(record, whole.read(record))
    return kept.getvalue()
