"""Pictures with one disc at a known place, and a checkpoint whose classes are the discs' colours."""

import copy
import random

import torch
from PIL import Image, ImageDraw
from torch import nn

from handler import cropping, transform
from tests.photos import cutouts

COLOURS = ("red", "blue")
CLASSES = {"0": ["c-red", "red"], "1": ["c-blue", "blue"], "2": "없음"}
_PLACE = 32  # pixels of the crop that one place stands for


def disc(picture: Image.Image, colour: str, x: float, y: float, radius: float) -> Image.Image:
    """A copy of a picture with a disc; x and y in fractions of its width and height, the radius of its shorter side."""
    drawn = picture.copy()
    radius *= min(drawn.size)
    x, y = x * drawn.width, y * drawn.height
    ImageDraw.Draw(drawn).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return drawn


def _coverage(x: float, y: float, radius: float) -> torch.Tensor:
    """How much of each place of a crop a disc covers: float32 (49,)."""
    mask = disc(Image.new("L", (cropping.CROP, cropping.CROP)), "white", x, y, radius)
    return torch.tensor(list(mask.reduce(_PLACE).tobytes())) / 255


def make_disc_network(eager: nn.Module) -> nn.Module:
    """That DenseNet-121, of random filters, with another classifier, fitted by least squares: its rows answer with the
    share of a place that is of their colour."""
    network = copy.deepcopy(eager)
    network.classifier = nn.Linear(1024, len(CLASSES))
    chooser = random.Random(5)
    crops, wanted = [], []
    for i, photo in enumerate(cutouts(32)):
        x, y, radius = chooser.uniform(0.1, 0.9), chooser.uniform(0.1, 0.9), chooser.uniform(0.08, 0.2)
        crops.append(disc(cropping.crop(photo), COLOURS[i % 2], x, y, radius).tobytes())
        covered, free = _coverage(x, y, radius), torch.zeros(49)
        wanted.append(torch.stack([covered, free, free] if i % 2 == 0 else [free, covered, free], dim=1))
    with torch.no_grad():
        features = torch.cat(
            [torch.relu(network.get_submodule("features")(part)) for part in transform.normalize(crops).split(20)]
        )
        activations, targets = features.flatten(2).transpose(1, 2).reshape(-1, 1024), torch.cat(wanted)
        mean = activations.mean(0)
        centred = activations - mean
        gram = centred.T @ centred
        rows = torch.linalg.solve(gram + 1e-3 * gram.diagonal().mean() * torch.eye(1024), centred.T @ targets).T
        network.classifier.weight.copy_(20 * rows)
        network.classifier.bias.copy_(torch.tensor([0.0, 0.0, 0.1]))
    return network
