"""Crop: from an upright RGB image to the square of it that the network sees.

Pillow alone: this runs in the process that decodes, which has no torch.
"""

from PIL import Image

RESIZE = 255  # pixels, the shorter side after resizing
ENOUGH = 2 * RESIZE  # pixels of a shorter side that an image may have been scaled down to before
CROP = 224  # pixels, the side of the square that the network sees

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, from the upper left corner."""

# A long side beyond this is never resized as a whole, only the part that the crop keeps: an image of 1 × 100000
# would grow to 255 × 25500000 pixels first.
_LONGEST_RESIZED = 64 * RESIZE


def crop(image: Image.Image) -> Image.Image:
    """Return the centre of the image as the network sees it: RGB, 224 × 224 pixels."""
    resized = _resized(*image.size)
    if max(resized) <= _LONGEST_RESIZED:
        whole = image.resize(resized, Image.Resampling.BILINEAR)
        return whole.crop(_centre(*resized))
    return image.resize((CROP, CROP), Image.Resampling.BILINEAR, box=crop_box(*image.size))


def crop_box(width: int, height: int) -> Box:
    """Return the part of an image of that size that crop() keeps, in the image's own pixels."""
    resized = _resized(width, height)
    x_scale, y_scale = width / resized[0], height / resized[1]
    left, top, right, bottom = _centre(*resized)
    return left * x_scale, top * y_scale, right * x_scale, bottom * y_scale


def _resized(width: int, height: int) -> tuple[int, int]:
    short = min(width, height)
    # int() truncates, as torchvision does.
    return int(RESIZE * width / short), int(RESIZE * height / short)


def _centre(width: int, height: int) -> tuple[int, int, int, int]:
    left, top = round((width - CROP) / 2), round((height - CROP) / 2)
    return left, top, left + CROP, top + CROP
