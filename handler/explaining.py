"""Explain: from what the network saw at each place of a picture to maps of classes, and pictures of them.

A class activation map (Zhou et al., 2016, arXiv:1512.04150) is exact for DenseNet: its logit is the mean, over 7 × 7
places, of the classifier's answer to what was seen at each, so the answers themselves say where a class was seen.
"""

import io

import torch
from PIL import Image

from handler import cropping, encoding, labels
from handler.cropping import Box
from handler.decoder import Decoded
from handler.labels import ClassIndex, Prediction
from handler.request import Explanation, Overlays, Why
from handler.scoring import Network

SIDE = 7  # places in a row, and rows

# Matplotlib's "inferno" (CC0; van der Walt and Smith, 2015), whose lightness grows evenly, at nine even steps.
_COLOURS = (
    *((0, 0, 4), (33, 12, 74), (87, 16, 110), (138, 34, 106), (188, 55, 84)),
    *((228, 90, 49), (249, 142, 9), (249, 203, 53), (252, 255, 164)),
)
_CROP = (Overlays.CROP, Overlays.BOTH)
_OPACITY = 0.75  # of the strongest evidence
_COMPRESSION = 1  # zlib's fastest; level 6 takes three to six times as long, to save a tenth


def evidence(network: Network, activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What each place says for each class: float32 (49, 1024) → maps (classes, 7, 7), and biases (classes,).

    A class's logit is the mean of its map, and its bias.
    """
    with torch.inference_mode():
        bias = network.judge(torch.zeros(1, 1, activations.shape[1]))[0]
        maps = network.judge(activations.unsqueeze(1)) - bias
    return maps.T.reshape(-1, SIDE, SIDE), bias


def explain(
    network: Network,
    logits: torch.Tensor,
    activations: torch.Tensor,
    classes: ClassIndex,
    why: Why,
    decoded: Decoded | None,
) -> tuple[Explanation, ...]:
    """One image's explanations of the classes asked for; of a preprocessed image the maps alone.

    logits: float32 (classes,); activations: float32 (49, 1024); decoded: None for a preprocessed image.
    Raises Failure bad_tensor where a preprocessed image makes an evidence overflow.
    """
    maps, biases = evidence(network, activations)
    if decoded is None:
        encoding.check_finite(maps)
    targets = why.targets or (int(logits.argmax()),)
    return tuple(
        _explain(prediction, maps[prediction.index], biases[prediction.index].item(), why, decoded)
        for prediction in labels.look_up(logits, classes, targets[:1] if why.png else targets)
    )


def _explain(
    prediction: Prediction, places: torch.Tensor, bias: float, why: Why, decoded: Decoded | None
) -> Explanation:
    heat, overlay, picture = to_heat(places), None, None
    if decoded and why.overlays in _CROP:
        crop = Image.frombytes("RGB", (cropping.CROP, cropping.CROP), bytes(decoded.crop))
        overlay = to_png(lay_over(crop, heat))
    if decoded and decoded.shown:
        picture = to_png(lay_back(decoded.shown, heat, decoded.box))
    return Explanation(prediction, bias, places.tolist(), overlay, picture)


def to_heat(places: torch.Tensor) -> Image.Image:
    """A map, float32 (7, 7), as a grey picture of as many pixels (mode L): 0 where nothing speaks for the class, 255
    where most does."""
    return Image.frombytes("L", (SIDE, SIDE), bytes(_levels(places).to(torch.uint8).flatten().tolist()))


def _levels(places: torch.Tensor) -> torch.Tensor:
    values = places.clamp_min(0)
    # Divided first: 255 / tiny is infinite, and that times 0 no number.
    return (values / values.max().clamp_min(torch.finfo().tiny) * 255).round()


def lay_over(picture: Image.Image, heat: Image.Image) -> Image.Image:
    """An RGB picture with a heat of its whole laid over it; where there is none it shows as it is."""
    # Each place is a tile of the picture, and its value stands for the tile's middle, as resize() has it.
    heat = heat.resize(picture.size, Image.Resampling.BICUBIC)
    colours = heat.copy()
    colours.putpalette(_palette())
    return Image.composite(colours.convert("RGB"), picture, heat.point([round(i * _OPACITY) for i in range(256)]))


def lay_back(picture: Image.Image, heat: Image.Image, crop: Box) -> Image.Image:
    """An RGB picture with the heat of its crop laid over that, and dimmed around it: nothing there was looked at.

    crop: in fractions of the picture's width and height.
    """
    across, down = ([round(crop[i] * side), round(crop[i + 2] * side)] for i, side in enumerate(picture.size))
    # A picture of a few pixels' width is still to have a column of heat.
    (left, right), (top, bottom) = ((low, max(high, low + 1)) for low, high in (across, down))
    box = left, top, right, bottom
    shown = picture.point([value // 2 for value in range(256)] * 3)
    shown.paste(lay_over(picture.crop(box), heat), box)
    return shown


def to_png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()


def _palette() -> list[int]:
    """256 colours, red, green and blue of each, between the nine."""
    strip = Image.new("RGB", (len(_COLOURS), 1))
    strip.putdata(_COLOURS)
    steps = len(_COLOURS) - 1
    # From the middle of the first colour's pixel to that of the last one's.
    even = strip.resize((256, 1), Image.Resampling.BILINEAR, box=(0.5, 0, steps + 0.5, 1))
    return list(even.tobytes())
