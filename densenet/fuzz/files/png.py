"""PNG: chunks without number, texts and profiles that swell, and pictures of one colour."""

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
_TEXT_LIMIT = MEGABYTE  # to which Pillow inflates one text or profile; refused beyond 1024 × 1024


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """One chunk, with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, colour: int, data: bytes, *, depth: int = 8, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """A PNG of that compressed data, with further chunks before it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return _SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND")


def black(
    width: int, height: int, colour: int, *, depth: int = 8, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """A PNG of zeros only; see-through where it has an alpha channel."""
    row = -(-width * _CHANNELS[colour] * depth // 8)
    # Interlaced there are seven pictures of fewer rows; too much data does no harm.
    length = (row + 8) * height * 2 if interlaced else (row + 1) * height
    return png(width, height, colour, zeros(length), depth=depth, interlaced=interlaced, extra=extra)


def small(extra: bytes = b"", *, behind: bytes = b"") -> bytes:
    """A picture of 16 × 16 pixels with further chunks before its data, or behind it."""
    plain = saved(Image.new("RGB", (16, 16)), "PNG")
    return plain[:_HEADER_END] + extra + plain[_HEADER_END:-_END_LENGTH] + behind + plain[-_END_LENGTH:]


def filled(*chunks: bytes, place: Callable[..., bytes] = small) -> bytes:
    """A small picture with those chunks over and over."""
    together = b"".join(chunks)
    return place(together * (FULL // len(together)))


def many_chunks() -> bytes:
    """Empty chunks of no known kind, 750,000 of them."""
    return filled(chunk(b"prVt"))


def many_chunks_behind() -> bytes:
    """The same behind the picture's data."""
    return small(behind=chunk(b"prVt") * (FULL // 12))


def many_empty_data() -> bytes:
    """Data chunks without data."""
    return filled(chunk(b"IDAT"))


def many_data(size: int = 1) -> bytes:
    """The picture's data, stored without compression, in chunks of a byte."""
    side = 480
    data = zlib.compress(bytes(side * (3 * side + 1)), 0)
    pieces = b"".join(chunk(b"IDAT", data[at : at + size]) for at in range(0, len(data), size))
    return black(side, side, RGB).replace(chunk(b"IDAT", zeros(side * (3 * side + 1))), pieces)


def nameless_texts() -> bytes:
    """Compressed texts of a megabyte each; those without a name Pillow does not count."""
    return filled(chunk(b"zTXt", b"\0\0" + zeros(_TEXT_LIMIT)))


def named_texts() -> bytes:
    """Compressed texts of a megabyte each, under one name."""
    return small(chunk(b"zTXt", b"a\0\0" + zeros(_TEXT_LIMIT)) * 64)


def international_texts() -> bytes:
    """Compressed texts of a megabyte each that are no UTF-8 in their language's name, and therefore not counted."""
    return filled(chunk(b"iTXt", b"a\0\1\0\xff\0\0" + zeros(_TEXT_LIMIT)))


def many_profiles() -> bytes:
    """Profiles of a megabyte each, of which only the last is kept."""
    return filled(chunk(b"iCCP", b"a\0\0" + zeros(_TEXT_LIMIT)))


def many_frame_controls() -> bytes:
    """An animation that announces its first frame 240,000 times."""
    frame = b"".join(chunk(b"fcTL", struct.pack(">IIIIIHHBB", i, 16, 16, 0, 0, 1, 1, 0, 0)) for i in range(FULL // 38))
    return small(chunk(b"acTL", struct.pack(">II", 2, 0)) + frame)


def long_palette() -> bytes:
    """A palette of three million colours, and as many transparencies."""
    size = FULL // 2
    return black(16, 16, PALETTE, extra=chunk(b"PLTE", b"\1" * size) + chunk(b"tRNS", b"\xff" * (size - 1) + b"\0"))


def with_exif(block: bytes) -> bytes:
    """A small picture with that EXIF block."""
    return small(chunk(b"eXIf", block))


def with_exif_as_text(block: bytes) -> bytes:
    """The same with the block in hexadecimal digits, as ImageMagick writes it."""
    text = f"\nexif\n{len(block):8}\n{block.hex()}\n"
    return small(chunk(b"tEXt", b"Raw profile type exif\0" + text.encode()))


def tall(colour: int = RGBA, height: int = 64_000_000) -> bytes:
    """One pixel wide: a row takes far more memory than its pixel."""
    return black(1, height, colour)


def large(colour: int = RGBA, *, depth: int = 8, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """As many pixels as are allowed."""
    return black(8000, 8000, colour, depth=depth, interlaced=interlaced, extra=extra)


def interlaced_column(height: int = 64_000_000) -> bytes:
    """One pixel wide and interlaced."""
    return black(1, height, GREY, depth=1, interlaced=True)
