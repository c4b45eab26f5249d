"""Builders of image files, one module per format: basic parts first, then files that are costly to decode."""

import io
import struct
import zlib
from collections.abc import Iterable

from PIL import Image

MEGABYTE = 1_000_000
FULL = 9 * MEGABYTE  # bytes of filling for a file that must stay below a request's 10 MiB


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    """Return the image as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def packed(fields: Iterable[tuple[int, int]]) -> bytes:
    """Pack (value, number of bits) pairs, least significant bit first, as in GIF and lossless WebP."""
    out, pending, bits = bytearray(), 0, 0
    for value, width in fields:
        pending |= value << bits
        bits += width
        while bits >= 8:
            out.append(pending & 0xFF)
            pending, bits = pending >> 8, bits - 8
    return bytes(out) + (bytes([pending]) if bits else b"")


def zeros(count: int) -> bytes:
    """Build a zlib stream of zero bytes from identical blocks, so that even the longest is fast to write."""
    blocks, rest = divmod(count, MEGABYTE)
    checksum = struct.pack(">HH", count % 65521, 1)  # Adler-32 of zeros depends only on their number
    return b"\x78\x9c" + _block(MEGABYTE) * blocks + _block(rest) + b"\x03\x00" + checksum


def _block(count: int) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    return compressor.compress(bytes(count)) + compressor.flush(zlib.Z_FULL_FLUSH)
