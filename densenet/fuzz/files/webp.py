"""WebP: a few bytes of lossless data for millions of pixels, and huge numbers of chunks."""

import struct
from collections.abc import Iterator

from PIL import Image

from densenet.fuzz.files import FULL, packed, saved

_PREDICTOR, _CROSS_COLOUR, _SUBTRACT_GREEN = 0, 1, 2
_FIRST_PARTITION = 500_000  # bytes that mark 250,000 blocks as empty
_COSTLY_PREDICTOR = 11  # "select": compares three neighbours in every channel
Fields = Iterator[tuple[int, int]]


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """Build a RIFF chunk, padded to an even length."""
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def riff(*chunks: bytes) -> bytes:
    """Build a WebP file from chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extended(width: int, height: int, flags: int) -> bytes:
    """Build the header of an extended file. flags: 2 animation, 4 XMP, 8 EXIF, 16 alpha, 32 profile."""
    return chunk(b"VP8X", struct.pack("<I", flags) + _three(width - 1) + _three(height - 1))


def _three(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


def _one_symbol(symbol: int) -> Fields:
    """Yield a prefix code of one symbol, which takes zero bits per pixel."""
    yield 1, 1  # simple
    yield 0, 1  # one symbol
    yield 1, 1  # of eight bits
    yield symbol, 8


def _one_colour(green: int) -> Fields:
    yield 0, 1  # no colour cache
    for symbol in (green, 0, 0, 255, 0):  # green, red, blue, alpha, distance
        yield from _one_symbol(symbol)


def _lossless(width: int, height: int, predictor: int) -> Fields:
    yield 0x2F, 8
    yield width - 1, 14
    yield height - 1, 14
    yield 1, 1  # alpha is used
    yield 0, 3  # version
    for transform, green in ((_PREDICTOR, predictor), (_CROSS_COLOUR, 0)):
        yield 1, 1
        yield transform, 2
        yield 7, 3  # blocks of 512 pixels
        yield from _one_colour(green)
    yield 1, 1
    yield _SUBTRACT_GREEN, 2
    yield 0, 1  # no more transforms
    yield 0, 1  # no colour cache
    yield 0, 1  # one set of prefix codes
    for symbol in (1, 0, 0, 255, 0):
        yield from _one_symbol(symbol)


def lossless_data(width: int, height: int, predictor: int = _COSTLY_PREDICTOR) -> bytes:
    """Build the VP8L chunk of an image with every transform, in 60 bytes."""
    return chunk(b"VP8L", packed(_lossless(width, height, predictor)) + bytes(8))


def lossless(width: int = 8000, height: int = 8000, predictor: int = _COSTLY_PREDICTOR) -> bytes:
    """Build an image with the maximum number of pixels."""
    return riff(lossless_data(width, height, predictor))


def wide_lossless() -> bytes:
    """Build an image with the format's maximum width."""
    return lossless(16_383, 3906)


def animation(canvas: tuple[int, int], frames: int, *, frame: bytes, size: tuple[int, int]) -> bytes:
    """Build an animation with a repeated frame on a canvas."""
    head = struct.pack("<II", 0, 0)[:6] + _three(size[0] - 1) + _three(size[1] - 1) + _three(100) + b"\2"
    return riff(extended(*canvas, 2 | 16), chunk(b"ANIM", bytes(6)), chunk(b"ANMF", head + frame) * frames)


def large_canvas(side: int = 8000) -> bytes:
    """Build a frame of one pixel on a canvas of the maximum size."""
    return animation((side, side), 2, frame=lossless_data(1, 1), size=(1, 1))


def huge_canvas(width: int = 13_000, height: int = 13_000) -> bytes:
    """Build a canvas above the limit, which the decoder allocates before its size can be read."""
    return animation((width, height), 2, frame=lossless_data(1, 1), size=(1, 1))


def many_frames() -> bytes:
    """Build an animation of many frames, of which only the first is decoded."""
    return animation((16, 16), FULL // 100, frame=lossless_data(16, 16), size=(16, 16))


def many_chunks() -> bytes:
    """Build an image with many chunks of unknown type."""
    return riff(extended(16, 16, 16), lossless_data(16, 16), chunk(b"none") * (FULL // 8))


def many_chunks_in_a_frame() -> bytes:
    """Build an animation with many chunks of unknown type in a frame."""
    frame = lossless_data(16, 16) + chunk(b"none") * (FULL // 8)
    return animation((16, 16), 1, frame=frame, size=(16, 16))


def with_exif(block: bytes) -> bytes:
    """Build a small image with an EXIF block."""
    return riff(extended(16, 16, 8 | 16), lossless_data(16, 16), chunk(b"EXIF", block))


def lossy(width: int = 8000, height: int = 8000) -> bytes:
    """Build a lossy image with an alpha channel from a small image's header and zeros as data."""
    small = saved(Image.new("RGB", (16, 16)), "WEBP", quality=50)
    head = small.index(b"\x9d\x01\x2a")
    first = bytes(_FIRST_PARTITION)
    tag = struct.pack("<I", 0x10 | len(first) << 5)[:3]  # a visible key frame and the length of its first partition
    start = small[head + 7 : head + 7 + 16]  # start of the first partition, with the settings of the entire image
    data = tag + b"\x9d\x01\x2a" + struct.pack("<HH", width, height) + start + first[len(start) :] + bytes(FULL // 10)
    return riff(extended(width, height, 16), _alpha(width, height), chunk(b"VP8 ", data))


def _alpha(width: int, height: int) -> bytes:
    """Build a losslessly compressed alpha channel, a stream without header, with the gradient filter."""
    fields = list(_lossless(width, height, _COSTLY_PREDICTOR))[5:]
    return chunk(b"ALPH", bytes([1 | 3 << 2]) + packed(iter(fields)) + bytes(8))
