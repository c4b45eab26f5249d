"""Colours: convert decoded pixels of any mode to RGB over white, as a viewer would display them."""

import io
import math
from contextlib import suppress

from PIL import Image, ImageCms, ImageOps

from handler.errors import ErrorCode, RequestError

# The colour space in an ICC profile's header → the mode of the pixels that it describes.
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_GREY = ("1", "L", "LA")
_SHADES = Image.frombytes("L", (256, 1), bytes(range(256)))


def to_rgb(image: Image.Image, profile: bytes | None = None, *, white_is_zero: bool = False) -> Image.Image:
    """Convert an image to mode RGB, with transparency over white. RGB without a profile is returned unchanged.

    profile: the ICC profile to convert from to sRGB; one that does not fit the image is ignored.
    white_is_zero: the 16-bit grey values count from white; Pillow inverts only those of 8 bits.

    Raises:
        RequestError: broken_image.
    """
    if image.mode.startswith("I;16"):
        image = _from_16_bit(image, white_is_zero)
    elif image.mode in ("I", "F"):
        image = _from_wide_range(image)
    colours = _in_srgb(image, profile) if profile else None
    if not image.has_transparency_data:
        return colours or (image if image.mode == "RGB" else image.convert("RGB"))
    layered = image.convert("RGBA")
    mask = layered.getchannel("A") if colours else layered
    white = Image.new("RGB", image.size, "white")
    white.paste(colours or layered, mask=mask)
    return white


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Return the colours without transparency in sRGB, RGB; None if the profile is damaged or of other colours."""
    mode = _MODES.get(profile[16:20])
    if mode is None or (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and image.mode not in _GREY):
        return None
    with suppress(ImageCms.PyCMSError, OSError, ValueError):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        pixels = image if image.mode == mode else image.convert(mode)
        if mode != "L":
            return ImageCms.profileToProfile(pixels, source, target, outputMode="RGB")
        # lcms would interpolate dark shades to half their brightness; all 256 of them are cheap without that.
        shades = ImageCms.profileToProfile(_SHADES, source, target, outputMode="RGB", flags=ImageCms.Flags.NOOPTIMIZE)
        if shades is not None:
            table = b"".join(channel.tobytes() for channel in shades.split())
            return Image.merge("RGB", [pixels] * 3).point(list(table))
    return None


def _from_16_bit(image: Image.Image, white_is_zero: bool) -> Image.Image:
    # Maps 0..65535 to 0..255 (65535 = 257 × 255). Pillow's own conversion would clip everything above 255 to white.
    wide = image.convert("I")
    grey = wide.point([(value + 128) // 257 for value in range(65536)], "L")
    if white_is_zero:
        grey = ImageOps.invert(grey)
    clear = image.info.get("transparency")  # in a PNG: the one transparent grey value
    if isinstance(clear, int):
        grey.paste(255, mask=wide.point([255 * (value == clear) for value in range(65536)], "L"))
        grey.info.pop("transparency", None)  # there it would be a value of 8 bits
    return grey


def _from_wide_range(image: Image.Image) -> Image.Image:
    # 32-bit integers and floats have no defined range; like viewers do, stretch the values present to 0..255.
    low, high = (float(extreme) for extreme in image.getextrema())  # type: ignore[arg-type]
    if not math.isfinite(high - low):
        raise RequestError(
            ErrorCode.BROKEN_IMAGE, "the image contains NaN or infinite values; send an 8-bit or 16-bit image"
        )
    scale = 255 / (high - low) if high > low else 0.0
    stretched = image.convert("F").point(lambda value: value * scale + (0.5 - low * scale))
    return stretched.convert("L")
