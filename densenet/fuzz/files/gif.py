"""GIF: huge numbers of blocks, and frames far beyond the screen."""

import struct
from collections.abc import Iterator

from densenet.fuzz.files import FULL, packed

_TRAILER = b";"
_LZW_BITS = 2  # the minimum: codes 0 to 3, a clear code and an end code
_CLEAR, _END, _FIRST = 4, 5, 6
_LAST = 4095


def sub_blocks(data: bytes) -> bytes:
    """Split data into blocks of up to 255 bytes and append the empty block that ends them."""
    pieces = (data[at : at + 255] for at in range(0, len(data), 255))
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def extension(label: int, blocks: bytes) -> bytes:
    """Build an extension from its label and its sub-blocks."""
    return bytes([0x21, label]) + blocks


def gif(screen: tuple[int, int], *parts: bytes, background: int = 0) -> bytes:
    """Build a GIF of four colours from extensions and frames."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x81, background, 0)
    return head + bytes(range(12)) + b"".join(parts) + _TRAILER


def frame(width: int, height: int, *, left: int = 0, top: int = 0, interlaced: bool = False) -> bytes:
    """Build a frame of one colour."""
    head = struct.pack("<BHHHHBB", 0x2C, left, top, width, height, 0x40 * interlaced, _LZW_BITS)
    return head + sub_blocks(packed(_run(width * height)))


def _run(pixels: int) -> Iterator[tuple[int, int]]:
    """Yield LZW codes for pixels of one colour; each code adds one pixel to the previous one, up to the last code."""
    yield _CLEAR, 3
    yield 0, 3
    pixels -= 1
    code, length = _FIRST, 2
    while pixels > 0:
        # The decoder adds one code per code read, one step behind, and its code width follows the codes added.
        width = min(12, max(3, code.bit_length()))
        yield (code if length <= pixels else 0), width
        pixels -= length if length <= pixels else 1
        if code < _LAST:
            code, length = code + 1, length + 1
    yield _END, 12 if code == _LAST else code.bit_length()


def large(width: int = 8000, height: int = 8000, *, interlaced: bool = False) -> bytes:
    """Build an image with the maximum number of pixels."""
    return gif((width, height), frame(width, height, interlaced=interlaced))


def beyond_the_screen(width: int = 65_535, height: int = 65_535) -> bytes:
    """Build a screen of one pixel with a frame that enlarges the image to the format's maximum."""
    return gif((1, 1), frame(1, 1, left=width, top=height))


def much_beyond_the_screen() -> bytes:
    """Build a screen of one pixel with a frame of 64 megapixels."""
    return gif((1, 1), frame(8000, 8000))


def comments() -> bytes:
    """Build an image with many comments of one byte, which Pillow joins."""
    return gif((16, 16), extension(0xFE, b"\1a\0") * (FULL // 5), frame(16, 16))


def comment_blocks() -> bytes:
    """Build an image with one comment in millions of blocks."""
    return gif((16, 16), extension(0xFE, b"\1a" * (FULL // 2) + b"\0"), frame(16, 16))


def application_blocks() -> bytes:
    """Build an image with an application extension in millions of blocks."""
    return gif((16, 16), extension(0xFF, b"\x0bNETSCAPE2.0" + b"\1a" * (FULL // 2) + b"\0"), frame(16, 16))


def graphic_controls() -> bytes:
    """Build an image with a million graphic controls for one frame."""
    return gif((16, 16), extension(0xF9, b"\4\x0d\0\0\0\0") * (FULL // 8), frame(16, 16))


def many_frames() -> bytes:
    """Build an animation of many frames of one pixel, of which only the first is decoded."""
    pixel = frame(1, 1)
    return gif((1, 1), pixel * (FULL // len(pixel)))


def image_blocks() -> bytes:
    """Build a frame whose data is split into blocks of one byte."""
    data = packed(_run(16 * 16))
    head = struct.pack("<BHHHHBB", 0x2C, 0, 0, 16, 16, 0, _LZW_BITS)
    return gif((16, 16), head, b"".join(bytes([1, byte]) for byte in data), b"\1\0" * (FULL // 2), b"\0")


def clear_codes() -> bytes:
    """Build a frame whose data consists of clear codes."""
    head = struct.pack("<BHHHHBB", 0x2C, 0, 0, 16, 16, 0, _LZW_BITS)
    return gif((16, 16), head, sub_blocks(packed([(_CLEAR, 3)] * 8) * (FULL // 3)))
