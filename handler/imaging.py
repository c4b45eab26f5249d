"""Decode: from an encoded image to an upright RGB picture, as a person would see it.

The only module that knows what image files look like. The bytes decide the format, never a name or a content type,
and only decoders on the list below are ever run.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops, ImageCms, ImageOps, TiffImagePlugin

from handler import profiles, structure, tiff
from handler.failures import Code, Failure

# Signatures at the start of a file (each format's own specification), in the order they are tried.
_SIGNATURES: tuple[tuple[str, bytes], ...] = (
    ("JPEG", rb"\xff\xd8"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WEBP", rb"RIFF.{4}WEBP"),
    ("BMP", rb"BM.{12}[\x0c(48@l|]\0\0\0"),
    ("TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("AVIF", rb".{4}ftyp(?:avi[fs]|(?:mif1|msf1).{4}(?:.{4})*?avif)"),
    ("HEIC", rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"),
    ("a PDF document", rb"%PDF"),
    ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("SVG or another XML document", rb"(?i:\s*(?:\xef\xbb\xbf)?<(?:svg|\?xml))"),
    ("an HTML page", rb"(?i:\s*(?:\xef\xbb\xbf)?<(?:!doctype|html|head|body|!--))"),
    ("a Photoshop document", rb"8BPS"),
    ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
    ("a Windows icon", rb"\0\0[\x01\x02]\0(?!\0\0)"),
    ("PPM", rb"P[1-7]\s"),
    ("a camera's raw file", rb"FUJIFILMCCD-RAW|IIRO|IIU\0"),
    ("a video", rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI "),
    ("gzip (a Content-Encoding is not decoded)", rb"\x1f\x8b"),
    ("a ZIP archive", rb"PK\x03\x04"),
)
_PATTERNS = tuple((name, re.compile(pattern, re.DOTALL)) for name, pattern in _SIGNATURES)

# Our name of a format on the allow-list → Pillow's name of its decoder.
_DECODERS = {name: name for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")} | {"HEIC": "HEIF"}
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a TIFF tag, and one of its values
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# What an Exif orientation asks for, so that the image stands upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"


def decode(content: bytes, *, max_pixels: int, enough: int | None = None) -> Image.Image:
    """Decodes one image to mode RGB, upright by its EXIF orientation, transparency laid over white.

    Of an animation the first frame. RGB images without an orientation come out exactly as Pillow decodes them.
    max_pixels: the limit on width × height, checked on the header before anything is decoded.
    enough: pixels of the shorter side that will do. A JPEG of at least twice that is decoded at a half, a quarter or an
    eighth of its size, which libjpeg does in the frequency domain, for a fraction of the time.
    Raises Failure: not_an_image, unsupported_format, broken_image, too_many_pixels, too_costly.
    """
    return to_rgb(open_image(content, max_pixels=max_pixels), enough=enough)


@dataclass(frozen=True)
class Opened:
    """An image of which only the header has been read."""

    image: Image.Image
    name: str
    """Our name of its format."""
    pixels: int
    """How many decoding produces: width × height, or more where a file's tiles reach beyond the image."""


def open_image(content: bytes, *, max_pixels: int) -> Opened:
    """Reads an image's header. Raises Failure: not_an_image, unsupported_format, broken_image, too_many_pixels,
    too_costly."""
    name = _accepted(content)
    with _decoding(name, max_pixels):
        coded = structure.check(name, content, max_pixels)
        _check_pixels(coded, max_pixels)
        image: Image.Image = Image.open(io.BytesIO(content), formats=[_DECODERS[name]])
        _check_pixels(image.width * image.height, max_pixels)
        return Opened(image, name, max(coded, image.width * image.height))


def to_rgb(opened: Opened, *, enough: int | None = None) -> Image.Image:
    """Decodes what was opened, as decode() says. Raises Failure: broken_image, too_costly."""
    image = opened.image
    with _decoding(opened.name, opened.pixels):
        if enough is not None and min(image.size) >= 2 * enough:
            image = _scaled(image, enough)
        image.load()
        return _to_rgb(_upright(image))


@contextmanager
def _decoding(name: str, max_pixels: int) -> Iterator[None]:
    """Decoders raise whatever a damaged file leads them into."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF and the like: worth no line in the log
            yield
    except (Failure, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise Failure(Code.TOO_MANY_PIXELS, f"the image has more than the {max_pixels} pixels allowed") from error
    except Exception as error:
        if "memory" in str(error):  # so a codec's own allocation has failed
            raise MemoryError from error
        raise Failure(
            Code.BROKEN_IMAGE, f"the {name} file is damaged, cut short, or of a rare kind; send it whole, or as a PNG"
        ) from error


def _scaled(image: Image.Image, enough: int) -> Image.Image:
    """A JPEG as libjpeg decodes it at the least of its sizes whose shorter side is `enough`; others as they are."""
    short = min(image.size)
    wanted = tuple(math.ceil(side * enough / short) for side in image.size)
    drafted = image.draft(None, wanted)  # type: ignore[arg-type]
    if drafted is None or (box := drafted[1])[2:] == image.size:
        return image
    # The last column or row is only partly of the picture; without this it would shrink by that part.
    scaled = image.resize(image.size, Image.Resampling.BILINEAR, box=box)
    scaled.info = image.info  # its orientation and its profile
    return scaled


def identify(content: bytes) -> str | None:
    """The format's name by its signature, or None where there is no known one."""
    return next((name for name, pattern in _PATTERNS if pattern.match(content[:256])), None)


def _accepted(content: bytes) -> str:
    name = identify(content)
    if name is None:
        text = b"\0" not in content[:256] and content[:256].isascii()
        what = "this is text, not an image" if text else "this is no image format we know"
        raise Failure(Code.NOT_AN_IMAGE, f"{what}; send {ACCEPTED}")
    if name not in _DECODERS or (name == "HEIC" and not has_heic()):
        raise Failure(Code.UNSUPPORTED_FORMAT, f"this is {name}, which is not accepted here; send {ACCEPTED}")
    return name


def has_heic() -> bool:
    """Whether the optional decoder for HEIC is installed, and made known to Pillow."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener(decode_threads=1)  # processor time is one thread's
    return True


def _check_pixels(pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise Failure(Code.TOO_MANY_PIXELS, f"the image has {pixels} pixels, {max_pixels} are allowed; send it smaller")


def _upright(image: Image.Image) -> Image.Image:
    # In place, so that an image that is upright already is not copied. Pillow turns TIFFs by itself.
    method = _TURNS.get(1 if isinstance(image, TiffImagePlugin.TiffImageFile) else _orientation(image.info))
    if method is not None:
        image.im = image.im.transpose(method)
        image._size = image.im.size
    return image


def _orientation(info: Mapping[str | tuple[int, int], Any]) -> int:
    """The one tag, by itself: Pillow's exif_transpose() writes the whole block anew."""
    exif = info.get("exif")
    if exif is None and isinstance(profile := info.get("Raw profile type exif"), str):
        with suppress(ValueError):  # ImageMagick's way to keep Exif in a PNG: a name, a length, then hexadecimal
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
    if exif is not None and (found := tiff.orientation(exif)) is not None:
        return found
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    match = _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return int(match[1]) if match else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "CMYK":
        return _from_cmyk(image)
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        return _from_wide_range(image)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    layered = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(layered, mask=layered)
    return white


def _from_cmyk(image: Image.Image) -> Image.Image:
    # Pillow takes every CMYK JPEG as inverted. Adobe's are, and say so in a marker of their own; others are not
    # (the reading of ImageMagick and libvips).
    if image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        image = ImageChops.invert(image)
    profile = profiles.affordable(image.info.get("icc_profile"))
    if profile:
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            screen = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, inks, screen, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    # Full range to full range, 65535 = 257 × 255; Pillow's own conversion would clip everything above 255 to white.
    wide = image.convert("I")
    grey = wide.point([(value + 128) // 257 for value in range(65536)], "L")
    # Pillow turns 8-bit TIFFs whose zero is white the right way round, but not these.
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = ImageOps.invert(grey)
    clear = image.info.get("transparency")  # of a PNG, one shade
    if isinstance(clear, int):
        grey.paste(255, mask=wide.point([255 * (value == clear) for value in range(65536)], "L"))
    return grey.convert("RGB")


def _from_wide_range(image: Image.Image) -> Image.Image:
    # 32-bit integers and floats carry no range of their own; viewers stretch what is there.
    low, high = (float(extreme) for extreme in image.getextrema())  # type: ignore[arg-type]
    if not math.isfinite(high - low):
        raise Failure(Code.BROKEN_IMAGE, "the image holds values that are no numbers")
    scale = 255 / (high - low) if high > low else 0.0
    stretched = image.convert("F").point(lambda value: value * scale + (0.5 - low * scale))
    return stretched.convert("L").convert("RGB")
