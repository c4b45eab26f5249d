"""Explain: compute class activation maps from the network's features, and render them as overlays.

Class activation maps (Zhou et al., 2016, arXiv:1512.04150) are exact for DenseNet: a class's logit is the mean, over
7 × 7 positions, of the classifier applied at each position, so the map contains each position's share of the logit.
"""

import io

import torch
from PIL import Image

from handler import cropping, json_images, ranking
from handler.cropping import Box
from handler.decoder import Decoded
from handler.options import ExplainOptions, Overlays
from handler.ranking import ClassIndex, Prediction
from handler.results import Explanation
from handler.scoring import Network

GRID_SIZE = 7  # positions per row, and rows

# Matplotlib's "inferno" (CC0; van der Walt and Smith, 2015), sampled at nine even steps; its lightness grows evenly.
_COLOURS = (
    *((0, 0, 4), (33, 12, 74), (87, 16, 110), (138, 34, 106), (188, 55, 84)),
    *((228, 90, 49), (249, 142, 9), (249, 203, 53), (252, 255, 164)),
)
_CROP = (Overlays.CROP, Overlays.BOTH)
_OPACITY = 0.75  # at the map's largest value
_COMPRESSION = 1  # zlib's fastest level; level 6 takes three to six times as long and saves a tenth


def class_activation_maps(network: Network, activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return maps, float32 (classes, 7, 7), and biases, float32 (classes,), of activations, float32 (49, 1024).

    The logit of a class is the mean of its map plus its bias.
    """
    with torch.inference_mode():
        bias = network.forward_head(torch.zeros(1, 1, activations.shape[1]))[0]
        maps = network.forward_head(activations.unsqueeze(1)) - bias
    return maps.T.reshape(-1, GRID_SIZE, GRID_SIZE), bias


def explain(
    network: Network,
    logits: torch.Tensor,
    activations: torch.Tensor,
    classes: ClassIndex,
    explain_options: ExplainOptions,
    decoded: Decoded | None,
    temperature: float = 1.0,
) -> tuple[Explanation, ...]:
    """Return one image's explanations of the requested classes.

    logits: float32 (classes,); activations: float32 (49, 1024); decoded: None for a preprocessed image, whose
    explanations have maps but no overlays; temperature: see ranking.top_k().

    Raises:
        RequestError: bad_tensor, if the values of a preprocessed image make a map overflow.
    """
    maps, biases = class_activation_maps(network, activations)
    if decoded is None:
        json_images.check_finite(maps)
    targets = explain_options.targets or (int(logits.argmax()),)
    return tuple(
        _explain(prediction, maps[prediction.index], biases[prediction.index].item(), explain_options, decoded)
        for prediction in ranking.select(logits, classes, targets[:1] if explain_options.png else targets, temperature)
    )


def _explain(
    prediction: Prediction,
    class_map: torch.Tensor,
    bias: float,
    explain_options: ExplainOptions,
    decoded: Decoded | None,
) -> Explanation:
    heatmap, overlay, full_overlay = to_heatmap(class_map), None, None
    if decoded and explain_options.overlays in _CROP:
        crop = Image.frombytes("RGB", (cropping.CROP, cropping.CROP), bytes(decoded.crop))
        overlay = to_png(overlay_heatmap(crop, heatmap))
    if decoded and decoded.shown:
        full_overlay = to_png(overlay_on_original(decoded.shown, heatmap, decoded.box))
    return Explanation(prediction, bias, class_map.tolist(), overlay, full_overlay)


def to_heatmap(class_map: torch.Tensor) -> Image.Image:
    """Convert a map, float32 (7, 7), to a grey image of 7 × 7 pixels, mode L.

    The largest value becomes 255; zero and negative values, which speak against the class, become 0.
    """
    return Image.frombytes("L", (GRID_SIZE, GRID_SIZE), bytes(_levels(class_map).to(torch.uint8).flatten().tolist()))


def _levels(class_map: torch.Tensor) -> torch.Tensor:
    values = class_map.clamp_min(0)
    # Divide first: 255 / tiny is infinite, and infinity × 0 is NaN.
    return (values / values.max().clamp_min(torch.finfo().tiny) * 255).round()


def overlay_heatmap(image: Image.Image, heatmap: Image.Image) -> Image.Image:
    """Return an RGB image with the heatmap of the whole image over it; it is transparent where it is 0."""
    # Each position covers a tile of the image, and its value belongs to the tile's centre, as resize() assumes.
    heatmap = heatmap.resize(image.size, Image.Resampling.BICUBIC)
    colours = heatmap.copy()
    colours.putpalette(_palette())
    return Image.composite(colours.convert("RGB"), image, heatmap.point([round(i * _OPACITY) for i in range(256)]))


def overlay_on_original(image: Image.Image, heatmap: Image.Image, crop: Box) -> Image.Image:
    """Return an RGB image with the heatmap over its crop. The rest, which the network does not see, is dimmed.

    crop: in fractions of the image's width and height.
    """
    across, down = ([round(crop[i] * side), round(crop[i + 2] * side)] for i, side in enumerate(image.size))
    # In an image a few pixels wide, the heatmap still needs at least one column.
    (left, right), (top, bottom) = ((low, max(high, low + 1)) for low, high in (across, down))
    box = left, top, right, bottom
    overlaid = image.point([value // 2 for value in range(256)] * 3)
    overlaid.paste(overlay_heatmap(image.crop(box), heatmap), box)
    return overlaid


def to_png(image: Image.Image) -> bytes:
    """Encode the image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()


def _palette() -> list[int]:
    """Return 256 colours interpolated between the nine, as red, green, blue, red, …"""
    strip = Image.new("RGB", (len(_COLOURS), 1))
    strip.putdata(_COLOURS)
    steps = len(_COLOURS) - 1
    # The box goes from the centre of the first colour's pixel to the centre of the last one's.
    even = strip.resize((256, 1), Image.Resampling.BILINEAR, box=(0.5, 0, steps + 0.5, 1))
    return list(even.tobytes())
