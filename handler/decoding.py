"""Decode: convert an upload to an upright RGB image, as a viewer would display it.

The file's signature decides the format; its name and content type are ignored. Only the decoders in _DECODERS run.
"""

import io
import math
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from PIL import Image, ImageChops, TiffImagePlugin

from handler import boxes, colours, jpeg, png, profiles, structure, tiff, webp
from handler.errors import ErrorCode, RequestError
from handler.messages import is_url

# Signatures at the start of a file, from each format's specification, in the order in which they are tried.
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

# Accepted formats: our name → the name of Pillow's decoder.
_DECODERS = {name: name for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")} | {"HEIC": "HEIF"}
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a TIFF tag, and one of its values
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# What removes chunks that no pixel needs from files that cannot be decoded.
_MENDERS = {"PNG": png.without_damage, "WEBP": webp.without_damage}
# Ends of two kinds for files that lack theirs: zeros, which decoders assume for missing data, and bytes unlike these.
_UNLIKE = bytes(range(1, 255)) * 2
_COMPLETIONS = {
    "JPEG": (b"\xff\xd9", _UNLIKE + b"\xff\xd9"),
    "GIF": (bytes(len(_UNLIKE)), _UNLIKE),
    "BMP": (bytes(len(_UNLIKE)), _UNLIKE),
}
# Exif orientation → the transposition that makes the image upright.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# HEIC has an optional decoder, since libheif is under the LGPL. Looked up once: the decoder process cannot open files.
HAS_HEIC = find_spec("pillow_heif") is not None
ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF" + (", AVIF or HEIC" if HAS_HEIC else " or AVIF")


def decode(
    content: bytes, *, max_pixels: int, min_side: int | None = None, colour_profiles: bool = False
) -> Image.Image:
    """Decode one image to mode RGB: upright by its Exif orientation, with transparency over white.

    Decodes the first frame of an animation. RGB images without an orientation come out exactly as Pillow decodes them.
    max_pixels: limit on width × height, checked against the header before decoding.
    min_side: if a JPEG's shorter side has at least twice as many pixels, libjpeg decodes it at 1/2, 1/4 or 1/8 of its
    size in the frequency domain, in a fraction of the time. The shorter side keeps at least min_side pixels.
    colour_profiles: convert colours to sRGB from what the file says that they are; otherwise only inks (CMYK).

    Raises:
        RequestError: not_an_image, unsupported_format, broken_image, too_many_pixels, too_costly.
    """
    opened = open_image(content, max_pixels=max_pixels)
    return to_rgb(opened, min_side=min_side, colour_profiles=colour_profiles)


@dataclass(frozen=True)
class Opened:
    """An image whose header has been read, but whose pixels have not been decoded."""

    content: bytes
    image: Image.Image
    name: str
    """The format's name, a key of _DECODERS."""
    pixels: int
    """The number of pixels that decoding produces: width × height, or more if tiles reach beyond the image."""


def open_image(content: bytes, *, max_pixels: int) -> Opened:
    """Read an image's header.

    Raises:
        RequestError: not_an_image, unsupported_format, broken_image, too_many_pixels, too_costly.
    """
    name = _accepted(content)
    with _decoding(name, max_pixels):
        coded = structure.check(name, content, max_pixels)
        _check_pixels(coded, max_pixels)
        try:
            image = _open(name, content)
        except Exception:  # of any type, as always with damaged files
            if name not in _MENDERS:
                raise
            content = _MENDERS[name](content)
            image = _open(name, content)
        _check_pixels(image.width * image.height, max_pixels)
        return Opened(content, image, name, max(coded, image.width * image.height))


def _open(name: str, content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=[_DECODERS[name]])


def to_rgb(opened: Opened, *, min_side: int | None = None, colour_profiles: bool = False) -> Image.Image:
    """Decode an opened image as described at decode().

    Raises:
        RequestError: broken_image, too_costly.
    """
    with _decoding(opened.name, opened.pixels):
        try:
            file, image = opened.image, _load(opened.image, min_side)
        except Exception as error:
            file = _mended(opened, error)
            image = _load(file, min_side)
        # Everything else is asked of the file, because an image that was made from it has lost it.
        tags = file.tag_v2 if isinstance(file, TiffImagePlugin.TiffImageFile) else None
        rgb = colours.to_rgb(
            image,
            _profile(opened, file.info) if colour_profiles or image.mode == "CMYK" else None,
            white_is_zero=tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        )
        # Pillow has already applied a TIFF's orientation.
        turn = None if tags is not None else _TRANSPOSITIONS.get(_orientation(file.info))
        return rgb if turn is None else rgb.transpose(turn)


def _profile(opened: Opened, info: Mapping[str | tuple[int, int], Any]) -> bytes | None:
    """Return the ICC profile of the file's colours; None if they are sRGB or unknown.

    In a PNG, cICP comes before iCCP, sRGB, and gAMA with cHRM; in AVIF and HEIC, a profile before code points.
    """
    embedded, codes = profiles.affordable(info.get("icc_profile")), None
    with suppress(struct.error, IndexError):
        if opened.name == "PNG":
            codes = png.code_points(opened.content)
        elif opened.name in ("AVIF", "HEIC") and not embedded:
            codes = boxes.code_points(opened.content)
    if codes and profiles.are_known(*codes):
        return profiles.from_code_points(*codes)
    if embedded or opened.name != "PNG" or "srgb" in info or "gamma" not in info:
        return embedded
    return profiles.from_gamma(info["gamma"], info.get("chromaticity"))


def _load(file: Image.Image, min_side: int | None) -> Image.Image:
    """Decode the pixels: the file itself, or a smaller image from a JPEG at libjpeg's smallest sufficient scale."""
    short = min(file.size)
    if min_side is not None and short >= 2 * min_side:
        minimum = tuple(math.ceil(side * min_side / short) for side in file.size)
        drafted = file.draft(None, minimum)  # type: ignore[arg-type]
        if drafted is not None and (box := drafted[1])[2:] != file.size:
            # The last column or row is only partly covered by the image; without the box the image would shrink by it.
            return file.resize(file.size, Image.Resampling.BILINEAR, box=box)
    file.load()
    return file


def _mended(opened: Opened, error: Exception) -> Image.Image:
    """Open again a file that fails to decode though it has all its picture data.

    The last chunks of a PNG or WebP may be damaged or cut. A JPEG without its end marker, a GIF without the end of its
    data, and a BMP without the padding of its last row are completed: if they have all their data, all completions look
    the same.

    Raises:
        Exception: the same error; picture data is missing.
    """
    name, content = opened.name, opened.content
    if name in _MENDERS and (whole := _MENDERS[name](content)) != content:
        return _open(name, whole)
    if "truncated" not in str(error) or name not in _COMPLETIONS:
        raise error
    if name == "JPEG" and not jpeg.lacks_only_its_end(content):
        raise error
    first, second = (_open(name, content + end) for end in _COMPLETIONS[name])
    if ImageChops.difference(first, second).getbbox(alpha_only=False) is not None:
        raise error
    return _open(name, content + _COMPLETIONS[name][0])


@contextmanager
def _decoding(name: str, max_pixels: int) -> Iterator[None]:
    """Convert exceptions: on damaged files, decoders raise exceptions of any type."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged Exif and the like, which would only fill the log
            yield
    except (RequestError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise RequestError(
            ErrorCode.TOO_MANY_PIXELS, f"the image has more than {max_pixels} pixels; send a smaller one"
        ) from error
    except Exception as error:
        if "memory" in str(error):  # a codec failed to allocate memory
            raise MemoryError from error
        raise RequestError(
            ErrorCode.BROKEN_IMAGE,
            f"the {name} file is damaged, truncated or of an unsupported kind; send the whole file, or a PNG",
        ) from error


def identify(content: bytes) -> str | None:
    """Return the format's name by its signature, or None if the signature is unknown."""
    return next((name for name, pattern in _PATTERNS if pattern.match(content[:256])), None)


def _accepted(content: bytes) -> str:
    name = identify(content)
    if name is None:
        text = b"\0" not in content[:256] and content[:256].isascii()
        problem = "this is text, not an image" if text else "the image format is unknown"
        if text and is_url(content[:256].decode()):
            problem = "this is a URL, and URLs are not fetched"
        raise RequestError(ErrorCode.NOT_AN_IMAGE, f"{problem}; send {ACCEPTED}")
    if name == "HEIC":
        if not HAS_HEIC:
            problem = "HEIC is not switched on in this service (its operator can: scripts/serve --heic)"
            raise RequestError(ErrorCode.UNSUPPORTED_FORMAT, f"{problem}; send {ACCEPTED}")
        register_heic()
    elif name not in _DECODERS:
        raise RequestError(ErrorCode.UNSUPPORTED_FORMAT, f"{name} is not supported; send {ACCEPTED}")
    return name


def register_heic() -> None:
    """Register the optional HEIC decoder with Pillow; HAS_HEIC says whether it is installed."""
    from pillow_heif import register_heif_opener

    register_heif_opener(decode_threads=1)  # so that the limit of processor time also bounds the duration


def _check_pixels(pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise RequestError(
            ErrorCode.TOO_MANY_PIXELS, f"the image has {pixels} pixels; send one with at most {max_pixels}"
        )


def _orientation(info: Mapping[str | tuple[int, int], Any]) -> int:
    """Return the orientation from Exif or XMP, 1 if there is none.

    Pillow's exif_transpose() is not used because it rewrites the whole Exif block.
    """
    exif = info.get("exif")
    if exif is None and isinstance(profile := info.get("Raw profile type exif"), str):
        with suppress(ValueError):  # ImageMagick stores Exif in a PNG as a name, a length and hexadecimal text
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
    if exif is not None and (orientation := tiff.orientation(exif)) is not None:
        return orientation
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    match = _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return int(match[1]) if match else 1
