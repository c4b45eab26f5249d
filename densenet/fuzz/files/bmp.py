"""BMP: Pillow decodes run-length data in Python, with one loop iteration per pixel."""

import struct

RAW, RLE8, RLE4 = 0, 1, 2
_END_OF_LINE, _END = b"\0\0", b"\0\1"
_HUGE = 64_000_000


def bmp(width: int, height: int, data: bytes, *, depth: int = 8, compression: int = RAW) -> bytes:
    """Build a BMP with a black palette, if the depth needs one, and the data."""
    colours = 1 << depth if depth <= 8 else 0
    start = 54 + 4 * colours
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, len(data), 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + bytes(4 * colours) + data


def early_end_of_line(width: int = _HUGE, height: int = 1) -> bytes:
    """Build an image with one pixel and an end of line, which Pillow fills one byte at a time."""
    return bmp(width, height, (b"\1\0" + _END_OF_LINE) * height + _END, compression=RLE8)


def four_bit_runs(width: int = _HUGE, height: int = 1, runs: int = 251_000) -> bytes:
    """Build an image of runs of 255 pixels, which Pillow adds one at a time."""
    return bmp(width, height, b"\xff\x12" * runs + _END, depth=4, compression=RLE4)


def four_bit_pixels(width: int = 16_000_000, height: int = 1) -> bytes:
    """Build an image of literal pixels, two per byte, for the most loop iterations that fit into a request."""
    return bmp(width, height, (b"\0\xfe" + b"\x12" * 127 + b"\0") * (width // 254) + _END, depth=4, compression=RLE4)


def idle_runs(count: int = 4_500_000) -> bytes:
    """Build an image of runs beyond the end of a row, which add nothing."""
    return bmp(8, 8, b"\x08\0" + b"\1\0" * count + _END, compression=RLE8)


def idle_deltas(count: int = 2_250_000) -> bytes:
    """Build an image of moves by zero pixels."""
    return bmp(8, 8, b"\0\2\0\0" * count + _END, compression=RLE8)


def tall_runs(height: int = _HUGE) -> bytes:
    """Build an image of width 1, because a row takes far more memory than its pixel."""
    return bmp(1, height, b"\0\2\0\xff" * -(-height // 255) + _END, compression=RLE8)
