"""What the eager network behind the tutorial's own transform says of the photos that protocols are tried with."""

import base64
import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from export.bundle import class_index_for
from tests.conftest import tutorial_transform
from tests.photos import cutouts, encode

PHOTOS = [encode(image) for image in cutouts(3)]
TEXTS = [base64.b64encode(photo).decode() for photo in PHOTOS]
CLASSES = class_index_for(None, 1000)


@dataclass(frozen=True)
class Truth:
    """All classes of one photo, best first."""

    indices: list[int]
    probabilities: list[float]
    logits: list[float]

    @property
    def ids(self) -> list[str]:
        return [CLASSES.ids[index] for index in self.indices]

    @property
    def labels(self) -> list[str]:
        return [CLASSES.names[index] for index in self.indices]


@cache
def preprocessed(photo: bytes) -> torch.Tensor:
    """What a client who does the tutorial's preprocessing sends: float32, (3, 224, 224)."""
    tensor: torch.Tensor = tutorial_transform()(Image.open(io.BytesIO(photo)))
    return tensor


@cache
def truths(network: nn.Module) -> list[Truth]:
    """One a photo."""
    with torch.no_grad():
        rows = [network(preprocessed(photo).unsqueeze(0))[0].sort(descending=True) for photo in PHOTOS]
    return [Truth(row.indices.tolist(), torch.softmax(row.values, dim=0).tolist(), row.values.tolist()) for row in rows]


def eager_maps(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Class activation maps by a hook on the eager network, as the paper has them: float32 (N, classes, 7, 7)."""
    _, seen = _hooked(network, batch, "features.norm5")
    weights = network.get_submodule("classifier").get_parameter("weight").detach()
    return torch.einsum("nfyx,cf->ncyx", seen.relu(), weights)


def eager_embeddings(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """What the eager network's classifier gets, by a hook: float32 (N, 1024)."""
    (embeddings,), _ = _hooked(network, batch, "classifier")
    return torch.as_tensor(embeddings)


def _hooked(network: nn.Module, batch: torch.Tensor, layer: str) -> list[Any]:
    """The inputs and the output of a layer."""
    seen: list[Any] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _, inputs, output: seen.extend((inputs, output)))
    try:
        with torch.no_grad():
            network(batch)
    finally:
        hook.remove()
    return seen


def close(numbers: Any) -> Any:
    """Equal as far as two ways of computing the network are: one optimised for serving, one not."""
    return pytest.approx(numbers, abs=1e-4)


def check(result: dict[str, Any], truth: Truth, count: int = 5) -> None:
    """One of our own results says what is true."""
    rows = result["predictions"]
    ids, labels, probabilities = ([row[key] for row in rows] for key in ("class_id", "label", "probability"))
    assert (result["success"], ids, labels) == (True, truth.ids[:count], truth.labels[:count])
    assert probabilities == close(truth.probabilities[:count])


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON documents are equal but for the last digits of numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == pytest.approx(other, abs=1e-5)) if isinstance(one, float) else bool(one == other)
