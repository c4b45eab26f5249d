"""Read the boxes of AVIF and HEIC files, without decoding anything.

Sources: ISO/IEC 14496-12 (boxes, 4.2; primary item, 8.11.4), ISO/IEC 23008-12 (item properties, 9.3), ISO/IEC 23001-8
(colour information, as code points of ITU-T H.273).
"""

import struct
from collections.abc import Iterator

_MAX_BOXES = 1000
Span = tuple[int, int]
"""Offsets of the start and the end of a box's content."""


def boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the content of each box between two offsets; reads at most 1000 boxes.

    Raises:
        struct.error: the file ends within a box's header.
    """
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", content, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, start)
            start += 8
        following = end if size == 0 else at + max(size, 8)
        yield kind, start, min(following, end)
        at = following


def inside(content: bytes, span: Span, *path: bytes) -> Iterator[Span]:
    """Yield the boxes at a path of kinds. In a `meta` box, four bytes come before the boxes."""
    for kind, start, end in boxes(content, *span):
        if kind == path[0]:
            begin = start + 4 * (kind == b"meta")
            yield from inside(content, (begin, end), *path[1:]) if path[1:] else [(begin, end)]


def code_points(content: bytes) -> tuple[int, int] | None:
    """Return the code points of primaries and transfer function of the primary item; None if it has none.

    Raises:
        struct.error, IndexError: the boxes are damaged.
    """
    whole = (0, len(content))
    properties = [box for span in inside(content, whole, b"meta", b"iprp", b"ipco") for box in boxes(content, *span)]
    for start, _ in inside(content, whole, b"meta", b"pitm"):
        primary = struct.unpack_from(">I" if content[start] else ">H", content, start + 4)[0]
        for span in inside(content, whole, b"meta", b"iprp", b"ipma"):
            for index in _associations(content, span, primary):
                kind, at, _ = properties[index - 1]
                if kind == b"colr" and content[at : at + 4] == b"nclx":
                    return struct.unpack_from(">HH", content, at + 4)
    return None


def _associations(content: bytes, span: Span, item: int) -> list[int]:
    """Return the numbers of an item's properties, from 1."""
    at, end = span
    version, wide = content[at], content[at + 3] & 1
    at += 8
    while at < end:
        number, count = struct.unpack_from(">IB" if version else ">HB", content, at)
        at += 5 if version else 3
        code, mask = ("H", 0x7FFF) if wide else ("B", 0x7F)
        if number == item:
            return [index & mask for index in struct.unpack_from(f">{count}{code}", content, at)]
        at += count * (1 + wide)
    return []
