"""AVIF: one coded image used thousands of times, or declared with a wrong size."""

import random
import struct
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from PIL import Image

from densenet.fuzz.files import saved

_ESSENTIAL = 0x80
_SIDE = 64  # pixels, the smallest tile of the format


def box(kind: bytes, *parts: bytes) -> bytes:
    """Build a box."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """Build a full box, which has a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


class Coded(NamedTuple):
    """A coded image: its data, and the box that configures its decoder."""

    data: bytes
    configuration: bytes


@cache
def coded(width: int = _SIDE, height: int = _SIDE, *, noise: bool = False) -> Coded:
    """Encode an image with Pillow, of one colour or of noise in full quality."""
    image = Image.new("RGB", (width, height))
    if noise:
        image.frombytes(random.Random(0).randbytes(3 * width * height))
    options = {"quality": 100, "subsampling": "4:4:4"} if noise else {}
    content = saved(image, "AVIF", speed=10, max_threads=1, **options)
    at = content.index(b"av1C") - 4
    configuration = content[at : at + struct.unpack_from(">I", content, at)[0]]
    return Coded(content[content.index(b"mdat") + 4 :], configuration)


class Item(NamedTuple):
    """An item of a file: its kind, the position of its data, and its property numbers, counted from 1."""

    kind: bytes
    start: int = 0
    length: int = 0
    properties: Sequence[int] = ()


def _size(width: int, height: int) -> bytes:
    return full(b"ispe", 0, 0, struct.pack(">II", width, height))


def _channels() -> bytes:
    return full(b"pixi", 0, 0, b"\3\x08\x08\x08")


def avif(
    items: Sequence[Item], properties: Sequence[bytes], data: bytes, *, references: bytes = b"", spare: int = 0
) -> bytes:
    """Build a file of items. The first one is the image; starts are relative to the data.

    spare: number of further items without content.
    """
    kinds = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    count = len(items)

    def locations(start: int) -> bytes:
        used = (struct.pack(">IHHHII", i, 0, 0, 1, start + item.start, item.length) for i, item in enumerate(items, 1))
        unused = (struct.pack(">IHHH", i, 0, 0, 0) for i in range(count + 1, count + spare + 1))
        return full(b"iloc", 2, 0, b"\x44\0", struct.pack(">I", count + spare), *used, *unused)

    def meta(start: int) -> bytes:
        infos = (full(b"infe", 2, 0, struct.pack(">HH", i, 0), item.kind, b"\0") for i, item in enumerate(items, 1))
        owned = (
            struct.pack(">HB", i, len(item.properties)) + bytes(item.properties) for i, item in enumerate(items, 1)
        )
        return full(
            b"meta",
            0,
            0,
            full(b"hdlr", 0, 0, bytes(4), b"pict", bytes(13)),
            full(b"pitm", 0, 0, struct.pack(">H", 1)),
            locations(start),
            full(b"iinf", 0, 0, struct.pack(">H", count), *infos),
            box(b"iprp", box(b"ipco", *properties), full(b"ipma", 0, 0, struct.pack(">I", count), *owned)),
            full(b"iref", 0, 0, references) if references else b"",
        )

    return kinds + meta(len(kinds) + len(meta(0)) + 8) + box(b"mdat", data)


def _image_item(image: Coded) -> Item:
    return Item(b"av01", 0, len(image.data), (1, 2, 3 | _ESSENTIAL))


def _properties(image: Coded, width: int, height: int) -> list[bytes]:
    return [_size(width, height), _channels(), image.configuration]


def grid(columns: int = 125, rows: int = 125, side: int = _SIDE, *, noise: bool = False) -> bytes:
    """Build a grid image whose tiles are all the same item data."""
    tile = coded(side, side, noise=noise)
    width, height, count = columns * side, rows * side, columns * rows
    layout = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)
    full_grid = Item(b"grid", len(tile.data), len(layout), (4, 2))
    properties = [*_properties(tile, side, side), _size(width, height)]
    parts = struct.pack(f">HH{count}H", 1, count, *range(2, count + 2))
    return avif(
        [full_grid, *[_image_item(tile)] * count], properties, tile.data + layout, references=box(b"dimg", parts)
    )


def many_items(count: int = 900_000) -> bytes:
    """Build a file with many empty items; libavif searches all previous ones for each."""
    image = coded()
    return avif([_image_item(image)], _properties(image, _SIDE, _SIDE), image.data, spare=count)


def of_another_size(claimed: tuple[int, int] = (16, 16), real: tuple[int, int] = (4096, 4096)) -> bytes:
    """Build a file whose declared size differs from the coded one; the decoder scales to the declared size."""
    image = coded(*real)
    return avif([_image_item(image)], _properties(image, *claimed), image.data)


def large(width: int = 8000, height: int = 8000) -> bytes:
    """Build an image with the maximum number of pixels from a small coded image."""
    return of_another_size((width, height), (_SIDE, _SIDE))


def with_exif(block: bytes, turned: int = 1) -> bytes:
    """Build a small image with an EXIF block, rotated by `turned` quarter turns.

    If the EXIF orientation differs, Pillow rewrites the block when it opens the file.
    """
    image = coded()
    items = [
        Item(b"av01", 0, len(image.data), (1, 2, 3 | _ESSENTIAL, 4 | _ESSENTIAL)),
        Item(b"Exif", len(image.data), 4 + len(block)),
    ]
    properties = [*_properties(image, _SIDE, _SIDE), box(b"irot", bytes([turned]))]
    described = box(b"cdsc", struct.pack(">HHH", 2, 1, 1))
    return avif(items, properties, image.data + bytes(4) + block, references=described)
