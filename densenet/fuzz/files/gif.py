"""GIF: blocks without number, and frames far beyond their screen."""

import struct
from collections.abc import Iterator

from densenet.fuzz.files import FULL, packed

_TRAILER = b";"
_LZW_BITS = 2  # the shortest that there is: codes 0 to 3, a clear and an end
_CLEAR, _END, _FIRST = 4, 5, 6
_LAST = 4095


def sub_blocks(data: bytes) -> bytes:
    """Data cut into blocks of up to 255 bytes, and the empty block that ends them."""
    pieces = (data[at : at + 255] for at in range(0, len(data), 255))
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def extension(label: int, blocks: bytes) -> bytes:
    """An extension of that label, its sub-blocks as they are."""
    return bytes([0x21, label]) + blocks


def gif(screen: tuple[int, int], *parts: bytes, background: int = 0) -> bytes:
    """A GIF of four colours with those extensions and frames."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x81, background, 0)
    return head + bytes(range(12)) + b"".join(parts) + _TRAILER


def frame(width: int, height: int, *, left: int = 0, top: int = 0, interlaced: bool = False) -> bytes:
    """A frame of one colour."""
    head = struct.pack("<BHHHHBB", 0x2C, left, top, width, height, 0x40 * interlaced, _LZW_BITS)
    return head + sub_blocks(packed(_run(width * height)))


def _run(pixels: int) -> Iterator[tuple[int, int]]:
    """LZW codes of pixels of one colour: each is the one before and a pixel more, until there are no more codes."""
    yield _CLEAR, 3
    yield 0, 3
    pixels -= 1
    code, length = _FIRST, 2
    while pixels > 0:
        # The decoder learns a code with each code, one behind; its width follows what the decoder has learnt.
        width = min(12, max(3, code.bit_length()))
        yield (code if length <= pixels else 0), width
        pixels -= length if length <= pixels else 1
        if code < _LAST:
            code, length = code + 1, length + 1
    yield _END, 12 if code == _LAST else code.bit_length()


def large(width: int = 8000, height: int = 8000, *, interlaced: bool = False) -> bytes:
    """As many pixels as are allowed."""
    return gif((width, height), frame(width, height, interlaced=interlaced))


def beyond_the_screen(width: int = 65_535, height: int = 65_535) -> bytes:
    """A screen of one pixel, and a frame that makes the picture as large as the format allows."""
    return gif((1, 1), frame(1, 1, left=width, top=height))


def much_beyond_the_screen() -> bytes:
    """A screen of one pixel and a frame of 64 megapixels on it."""
    return gif((1, 1), frame(8000, 8000))


def comments() -> bytes:
    """Comments of one byte each, which Pillow joins."""
    return gif((16, 16), extension(0xFE, b"\1a\0") * (FULL // 5), frame(16, 16))


def comment_blocks() -> bytes:
    """One comment in millions of blocks."""
    return gif((16, 16), extension(0xFE, b"\1a" * (FULL // 2) + b"\0"), frame(16, 16))


def application_blocks() -> bytes:
    """An application's extension in millions of blocks."""
    return gif((16, 16), extension(0xFF, b"\x0bNETSCAPE2.0" + b"\1a" * (FULL // 2) + b"\0"), frame(16, 16))


def graphic_controls() -> bytes:
    """A million controls of one frame."""
    return gif((16, 16), extension(0xF9, b"\4\x0d\0\0\0\0") * (FULL // 8), frame(16, 16))


def many_frames() -> bytes:
    """Frames of one pixel; only the first is the picture."""
    one = frame(1, 1)
    return gif((1, 1), one * (FULL // len(one)))


def image_blocks() -> bytes:
    """A frame whose data comes in blocks of a byte."""
    data = packed(_run(16 * 16))
    head = struct.pack("<BHHHHBB", 0x2C, 0, 0, 16, 16, 0, _LZW_BITS)
    return gif((16, 16), head, b"".join(bytes([1, byte]) for byte in data), b"\1\0" * (FULL // 2), b"\0")


def clear_codes() -> bytes:
    """A frame whose data is one clear after another."""
    head = struct.pack("<BHHHHBB", 0x2C, 0, 0, 16, 16, 0, _LZW_BITS)
    return gif((16, 16), head, sub_blocks(packed([(_CLEAR, 3)] * 8) * (FULL // 3)))
