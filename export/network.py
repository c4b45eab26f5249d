"""Network: build the eager DenseNet-121 from a state dict and export it to TorchScript."""

import copy
import io
import warnings
import zipfile
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from export.console import CliError
from handler.cropping import CROP

FEATURES = 1024  # inputs of DenseNet-121's classifier


def build(state: Mapping[str, Tensor]) -> nn.Module:
    """Build torchvision's DenseNet-121 in eval mode; the classifier's rows give the number of classes.

    Raises: CliError with the first tensor that is missing, unknown, of the wrong shape or not finite.
    """
    classifier = state.get("classifier.weight")
    if classifier is None or classifier.ndim != 2 or classifier.shape[1] != FEATURES:
        problem = "it is missing" if classifier is None else f"not {tuple(classifier.shape)}"
        raise CliError(f"not a DenseNet-121: classifier.weight must be (classes, {FEATURES}), {problem}")
    if classifier.shape[0] < 2:
        raise CliError("this checkpoint has only one class; a classifier needs at least two")
    from torchvision.models import densenet121  # takes seconds; weights that cannot be loaded fail before

    network: nn.Module = densenet121(num_classes=classifier.shape[0]).eval()
    expected = network.state_dict()
    # num_batches_tracked counts training steps. Older files lack it, and eval mode does not use it.
    missing = [n for n in expected if n not in state and not n.endswith("num_batches_tracked")]
    unknown = [n for n in state if n not in expected]
    if missing or unknown:
        wrong = f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
        raise CliError(f"not a DenseNet-121: {wrong} ({len(missing)} missing, {len(unknown)} unknown tensors)")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise CliError(
                f"not a DenseNet-121: {name} is {tuple(tensor.shape)}, but must be {tuple(expected[name].shape)}"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CliError(f"{name} has values that are not finite; use a checkpoint without them")
    network.load_state_dict(expected | dict(state))
    return network


class Head(nn.Module):
    """The classifier: activations (N, P, 1024) at P positions of a crop → logits (N, classes), for any P."""

    def __init__(self, eager: nn.Module) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(eager.get_submodule("classifier"))

    def forward(self, activations: Tensor) -> Tensor:
        """Compute the logits. The classifier is linear, so a logit is the mean of the logits of all positions."""
        logits: Tensor = self.classifier(activations.mean(1))
        return logits


class Network(nn.Module):
    """float32 (N, 3, 224, 224), normalized → float32 logits (N, classes), for any N.

    It has two parts, so that the activations between them can be read for explanations.
    """

    def __init__(self, features: nn.Module, eager: nn.Module) -> None:
        """features: batch → activations (N, 49, 1024). eager: torchvision's network, whose classifier is copied."""
        super().__init__()
        self.trunk = features  # the file's own name for them (handler.PARTS)
        self.head = Head(eager)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        logits: Tensor = self.head(self.trunk(images))
        return logits


def to_torchscript(network: Network) -> bytes:
    """Trace a network in eval mode and return the bytes of the TorchScript file.

    The trace is valid for any batch size of float32 (N, 3, 224, 224). It is frozen on loading, not here, because packed
    weights, which freezing may add, depend on the machine (handler/scoring.py).
    """
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; versions are pinned
        # Tracing's own check would trace again, and find no more than the comparison with the eager network does.
        traced = torch.jit.trace(network, torch.zeros(1, 3, CROP, CROP), check_trace=False)
        # Saved to a buffer, because torch writes a file's name into its content and hides the OSError of a full disk.
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
    return _without_source_lines(buffer)


def _without_source_lines(script: io.BytesIO) -> bytes:
    """Remove the records of source lines and the checksum from a TorchScript file.

    They contain the path of this checkout, so the same network would give a different file in every folder.
    """
    kept = io.BytesIO()
    with zipfile.ZipFile(script) as original, zipfile.ZipFile(kept, "w") as file:
        for record in original.infolist():
            if not record.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                file.writestr(record, original.read(record))
    return kept.getvalue()
