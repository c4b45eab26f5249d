"""Crop: resize an upright RGB image and cut out the square that the network sees.

This module imports only Pillow because it runs in the decoder process, which does not load torch.
"""

from PIL import Image

RESIZE = 255  # pixels; length of the shorter side after resizing
MIN_SIDE = 2 * RESIZE  # pixels; a JPEG's shorter side is never scaled below this during decoding
CROP = 224  # pixels; side of the square that the network sees

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, measured from the upper left corner."""

# If the longer side would exceed this after resizing, only the part inside the crop is resized: an image of
# 1 × 100000 pixels would otherwise grow to 255 × 25500000 pixels.
_LONGEST_RESIZED = 64 * RESIZE


def crop(image: Image.Image) -> Image.Image:
    """Return the centre crop of an RGB image: RGB, 224 × 224 pixels."""
    resized = _resized(*image.size)
    if max(resized) <= _LONGEST_RESIZED:
        resized_image = image.resize(resized, Image.Resampling.BILINEAR)
        return resized_image.crop(_centre(*resized))
    return image.resize((CROP, CROP), Image.Resampling.BILINEAR, box=crop_box(*image.size))


def crop_box(width: int, height: int) -> Box:
    """Return the box that crop() keeps of an image of this size, in pixels of that image."""
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
