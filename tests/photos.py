"""Real photographs from packages that ship them, and cut-outs of them, so that no two images are alike."""

import io
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from handler.cropping import MIN_SIDE


def _folder(package: str) -> Path:
    """Where a package is installed; importing it would take seconds."""
    spec = find_spec(package)
    assert spec
    assert spec.origin
    return Path(spec.origin).parent


_SKIMAGE, _SKLEARN = _folder("skimage") / "data", _folder("sklearn") / "datasets" / "images"
_FILES = (
    *(_SKIMAGE / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")),
    *(_SKIMAGE / name for name in ("ihc.png", "retina.jpg", "hubble_deep_field.jpg")),
    *(_SKLEARN / name for name in ("china.jpg", "flower.jpg")),
)


@cache
def photos() -> tuple[Image.Image, ...]:
    """Ten whole photographs, RGB."""
    return tuple(Image.open(path).convert("RGB") for path in _FILES)


def cutouts(count: int) -> list[Image.Image]:
    """`count` different windows of the photographs, each of its own size and place."""
    windows = []
    for i in range(count):
        photo = photos()[i % len(_FILES)]
        step = i // len(_FILES)
        width, height = photo.width - 23 * step, photo.height - 17 * step
        left, top = (11 * step) % 60, (7 * step) % 40
        windows.append(photo.crop((left, top, min(left + width, photo.width), min(top + height, photo.height))))
    return windows


def small_cutouts(count: int) -> list[Image.Image]:
    """`count` of them that are decoded whole: JPEGs of a megapixel and more are decoded at a part of their size."""
    return [image for image in cutouts(2 * count) if min(image.size) < 2 * MIN_SIDE][:count]


def encode(image: Image.Image, file_format: str = "JPEG", **options: object) -> bytes:
    """The image as a file of that format."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
