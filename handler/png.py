"""Read the chunks of PNG files, without decoding anything. Source: the PNG specification (W3C), 5, 11.3.2 and 13.1."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_SIGNATURE_LENGTH, _FRAMING = 8, 12  # a chunk's length, type and checksum
# Ancillary chunks that change the pixels → the least length of their data.
_NEEDED = {b"tRNS": 1, b"eXIf": 8, b"iCCP": 3, b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}


@dataclass(frozen=True)
class Chunk:
    """One chunk. Its data may reach beyond the end of the file."""

    kind: bytes
    start: int
    """Offset of the data."""
    length: int

    @property
    def end(self) -> int:
        """Return the offset behind the data and the checksum."""
        return self.start + self.length + 4

    @property
    def is_ancillary(self) -> bool:
        """Return whether an image can be shown without it."""
        return bool(self.kind[0] & 0x20)

    def data(self, content: bytes) -> bytes:
        """Return the data."""
        return content[self.start : self.start + self.length]

    def is_intact(self, content: bytes) -> bool:
        """Return whether the chunk's checksum fits."""
        checksum = zlib.crc32(content[self.start - 4 : self.start + self.length])
        return content[self.end - 4 : self.end] == struct.pack(">I", checksum)


def chunks(content: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to IEND, or to the end of the file."""
    at = _SIGNATURE_LENGTH
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        yield Chunk(kind, at + 8, length)
        if kind == b"IEND":
            return
        at += length + _FRAMING


def without_damage(content: bytes) -> bytes:
    """Return a PNG without chunks that are cut, ancillary ones that are damaged, and those that change no pixel."""
    kept = [
        content[chunk.start - 8 : chunk.end]
        for chunk in chunks(content)
        if chunk.end <= len(content)
        and (
            not chunk.is_ancillary
            or (chunk.length >= _NEEDED.get(chunk.kind, len(content)) and chunk.is_intact(content))
        )
    ]
    return content[:_SIGNATURE_LENGTH] + b"".join(kept)


def code_points(content: bytes) -> tuple[int, int] | None:
    """Return the code points of primaries and transfer function (H.273) of the cICP chunk; None without a valid one."""
    for chunk in chunks(content):
        if chunk.kind == b"IDAT":
            return None
        if chunk.kind == b"cICP":
            data = chunk.data(content)  # primaries, transfer function, matrix, and whether values take the full range
            return (data[0], data[1]) if data[2:] == b"\0\1" else None
    return None
