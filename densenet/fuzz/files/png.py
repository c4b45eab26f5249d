"""PNG: huge numbers of chunks, texts and profiles that inflate, and images of one colour."""

import struct
import zlib
from collections.abc import Callable

from PIL import Image

from densenet.fuzz.files import FULL, MEGABYTE, saved, zeros

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # bytes: the signature and IHDR
_END_LENGTH = 12
_TEXT_LIMIT = MEGABYTE  # inflated size of a text or profile; Pillow rejects more than 1024 × 1024


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """Build a chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, colour: int, data: bytes, *, depth: int = 8, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """Build a PNG from compressed data, with further chunks before it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return _SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND")


def black(
    width: int, height: int, colour: int, *, depth: int = 8, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """Build a PNG of zeros, transparent if it has an alpha channel."""
    row = -(-width * _CHANNELS[colour] * depth // 8)
    # An interlaced image has seven passes of fewer rows; excess data is ignored.
    length = (row + 8) * height * 2 if interlaced else (row + 1) * height
    return png(width, height, colour, zeros(length), depth=depth, interlaced=interlaced, extra=extra)


def small(extra: bytes = b"", *, behind: bytes = b"") -> bytes:
    """Build an image of 16 × 16 pixels with further chunks before or after its data."""
    plain = saved(Image.new("RGB", (16, 16)), "PNG")
    return plain[:_HEADER_END] + extra + plain[_HEADER_END:-_END_LENGTH] + behind + plain[-_END_LENGTH:]


def filled(*chunks: bytes, place: Callable[..., bytes] = small) -> bytes:
    """Build a small image with repeated chunks."""
    together = b"".join(chunks)
    return place(together * (FULL // len(together)))


def many_chunks() -> bytes:
    """Build an image with 750,000 empty chunks of unknown type."""
    return filled(chunk(b"prVt"))


def many_chunks_behind() -> bytes:
    """Build an image with 750,000 empty chunks of unknown type after its data."""
    return small(behind=chunk(b"prVt") * (FULL // 12))


def many_empty_data() -> bytes:
    """Build an image with many empty data chunks."""
    return filled(chunk(b"IDAT"))


def many_data(size: int = 1) -> bytes:
    """Build an image whose uncompressed data is split into chunks of one byte."""
    side = 480
    data = zlib.compress(bytes(side * (3 * side + 1)), 0)
    pieces = b"".join(chunk(b"IDAT", data[at : at + size]) for at in range(0, len(data), size))
    return black(side, side, RGB).replace(chunk(b"IDAT", zeros(side * (3 * side + 1))), pieces)


def nameless_texts() -> bytes:
    """Build an image with compressed texts of a megabyte each, without names, which Pillow does not count."""
    return filled(chunk(b"zTXt", b"\0\0" + zeros(_TEXT_LIMIT)))


def named_texts() -> bytes:
    """Build an image with compressed texts of a megabyte each under one name."""
    return small(chunk(b"zTXt", b"a\0\0" + zeros(_TEXT_LIMIT)) * 64)


def international_texts() -> bytes:
    """Build an image with compressed texts of a megabyte each, not counted due to invalid UTF-8 in the language."""
    return filled(chunk(b"iTXt", b"a\0\1\0\xff\0\0" + zeros(_TEXT_LIMIT)))


def many_profiles() -> bytes:
    """Build an image with profiles of a megabyte each, of which only the last is kept."""
    return filled(chunk(b"iCCP", b"a\0\0" + zeros(_TEXT_LIMIT)))


def many_frame_controls() -> bytes:
    """Build an animation with 240,000 controls of its first frame."""
    frame = b"".join(chunk(b"fcTL", struct.pack(">IIIIIHHBB", i, 16, 16, 0, 0, 1, 1, 0, 0)) for i in range(FULL // 38))
    return small(chunk(b"acTL", struct.pack(">II", 2, 0)) + frame)


def long_palette() -> bytes:
    """Build an image with a palette of three million colours and as many alpha values."""
    size = FULL // 2
    return black(16, 16, PALETTE, extra=chunk(b"PLTE", b"\1" * size) + chunk(b"tRNS", b"\xff" * (size - 1) + b"\0"))


def with_exif(block: bytes) -> bytes:
    """Build a small image with an EXIF block."""
    return small(chunk(b"eXIf", block))


def with_exif_as_text(block: bytes) -> bytes:
    """Build a small image with an EXIF block in hexadecimal digits, as ImageMagick writes it."""
    text = f"\nexif\n{len(block):8}\n{block.hex()}\n"
    return small(chunk(b"tEXt", b"Raw profile type exif\0" + text.encode()))


def with_colours(*, code_points: bytes = bytes((9, 16, 0, 1)), gamma: int = 100_000) -> bytes:
    """Build a small image that describes its colours in numbers: cICP, gAMA and cHRM."""
    corners = struct.pack(">8I", 31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)
    described = chunk(b"gAMA", struct.pack(">I", gamma)) + chunk(b"cHRM", corners)
    return small((chunk(b"cICP", code_points) if code_points else b"") + described)


def damaged_chunks() -> bytes:
    """Build an image with 36,000 chunks whose checksums do not fit."""
    return small((chunk(b"tEXt", b"a\0b" * 80)[:-1] + b"?") * 36_000)


def tall(colour: int = RGBA, height: int = 64_000_000) -> bytes:
    """Build an image of width 1, because a row takes far more memory than its pixel."""
    return black(1, height, colour)


def large(colour: int = RGBA, *, depth: int = 8, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """Build an image with the maximum number of pixels."""
    return black(8000, 8000, colour, depth=depth, interlaced=interlaced, extra=extra)


def interlaced_column(height: int = 64_000_000) -> bytes:
    """Build an interlaced image of width 1."""
    return black(1, height, GREY, depth=1, interlaced=True)
