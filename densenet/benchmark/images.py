"""Generate many distinct photos of a size from the few in export/photos, identical on every machine."""

import random
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from densenet.benchmark.plan import Size
from densenet.paths import PHOTOS

_SOURCES = sorted(PHOTOS.glob("*.jpg"))
_QUALITY = 92
# An enlarged photo is smooth and compresses to a tenth of a camera's file. With sensor noise it has 3 to 6 MB.
_NOISE = 5.0  # standard deviation, in levels of 255


def write(folder: Path, size: Size, count: int) -> list[Path]:
    """Write `count` distinct JPEGs of the size and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{size.width}x{size.height}-{number:03}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        draw(size, number).save(path, "JPEG", quality=_QUALITY, subsampling="4:2:0")
    return paths


def draw(size: Size, number: int) -> Image.Image:
    """Draw image `number`: a window of a photo at a random position and scale, possibly mirrored."""
    photo = _photo(number % len(_SOURCES))
    rng = random.Random(number)
    share = rng.uniform(0.5, 1)
    width, height = round(photo.width * share), round(photo.height * share)
    left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
    window = photo.crop((left, top, left + width, top + height))
    if rng.random() < 0.5:
        window = ImageOps.mirror(window)
    fitted = ImageOps.fit(window, (size.width, size.height), Image.Resampling.BICUBIC)
    return fitted if fitted.width <= photo.width else _with_noise(fitted, number)


def _with_noise(image: Image.Image, seed: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((image.height, image.width, 1), dtype=np.float32) * _NOISE
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


@cache
def _photo(index: int) -> Image.Image:
    with Image.open(_SOURCES[index]) as image:
        return image.convert("RGB")
