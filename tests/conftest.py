"""What more than one test module needs: a checkpoint whose answers differ from photo to photo, its export, retries.

torch and torchvision take seconds to import; they are imported by what needs them, so that other tests begin at once.
"""

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from densenet.service import temporary_instance
from tests.photos import cutouts

if TYPE_CHECKING:
    from torch import nn
    from torchvision.transforms import Compose


def pytest_configure() -> None:
    """Two processes of tests never choose the same ports, and Ctrl-C reaches the programs that tests start."""
    # A shell lets what it runs in the background ignore Ctrl-C, and programs started by that inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    lowest, end = temporary_instance.PORTS
    share = (end - lowest) // count
    temporary_instance.PORTS = (lowest + number * share, lowest + (number + 1) * share)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(0)


def tutorial_transform() -> "Compose":
    """The Flask tutorial's lines, word for word what its users run."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(255),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def make_network(classes: int = 1000) -> "nn.Module":
    """A DenseNet-121 that was shown photos: random filters, but activations of a trained network's size, and logits
    that differ from photo to photo (torchvision's own initialisation answers nearly the same to everything)."""
    import torch
    from torch import nn
    from torchvision.models import densenet121

    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(7)
    network = densenet121(num_classes=classes)
    batch = torch.stack([tutorial_transform()(image) for image in cutouts(20)])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(batch)
        network.eval()
        features = torch.relu(network.features(batch)).mean(dim=(2, 3))
        scale = features.std(dim=0).clamp_min(1e-3)
        projection = torch.randn(classes, features.shape[1], generator=generator) * (3 / features.shape[1] ** 0.5)
        network.classifier.weight.copy_(projection / scale)
        network.classifier.bias.copy_(-network.classifier.weight @ features.mean(dim=0))
    return network


@pytest.fixture(scope="session")
def network() -> "nn.Module":
    """The eager network of `checkpoint`."""
    return make_network()


@pytest.fixture(scope="session")
def checkpoint(network: "nn.Module", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its state dict as a file."""
    import torch

    path = tmp_path_factory.mktemp("checkpoint") / "shown_photos.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that an export of `checkpoint` wrote; parallel test processes share it."""
    from export import bundle, weights

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            bundle.make(weights.load(str(checkpoint)), None).write(folder)
    return folder


@pytest.fixture
def retries() -> Iterator[list[RetryDetails]]:
    """Every further try of the test's clients, with the seconds waited before it."""
    seen: list[RetryDetails] = []
    set_on_retry_hooks([seen.append])
    yield seen
    set_on_retry_hooks(None)
