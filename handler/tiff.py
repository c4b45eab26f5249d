"""Read tags of TIFF files and of Exif blocks, which are TIFF files without an image.

Reads only the requested tags, and never beyond the end of the file. Sources: TIFF 6.0 (Adobe, 1992), the BigTIFF
design, Exif 2.32.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ORIENTATION = 274
_MAX_ENTRIES = 4096  # per directory; cameras and scanners write fewer than 200
# Bytes of one value by its type, and the struct format of types that are whole numbers.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}
_OPAQUE = (1, 2, 6, 7)  # bytes and text, which decoders keep as one object


class BadDirectory(Exception):
    """A directory is truncated, is not at its offset, or has too many entries."""


@dataclass(frozen=True)
class Entry:
    """One tag: the type and count of its values, and their offset in the content."""

    type: int
    count: int
    at: int

    @property
    def size(self) -> int:
        """Return the bytes of all values; 0 for an unknown type, which decoders ignore."""
        return self.count * _SIZES.get(self.type, 0)


@dataclass(frozen=True)
class Directory:
    """The tags of one directory of a file."""

    content: bytes
    order: str
    """Byte order in struct's notation: `<` or `>`."""
    entries: Mapping[int, Entry]
    """The first entry of each tag, which Pillow and libtiff use."""
    all_entries: Sequence[Entry]
    """All entries, including those of repeated tags."""
    repeated: frozenset[int]
    """The tags that occur more than once."""

    def numbers(self, tag: int) -> tuple[int, ...] | None:
        """Return a tag's whole numbers (16 to 64 bits); None for other types, or values beyond the end of the file."""
        entry = self.entries.get(tag)
        if entry is None or entry.type not in _INTEGERS or entry.at + entry.size > len(self.content):
            return None
        return struct.unpack_from(f"{self.order}{entry.count}{_INTEGERS[entry.type]}", self.content, entry.at)

    def number(self, tag: int, default: int) -> int:
        """Return a tag's first whole number, or the default without one."""
        numbers = self.numbers(tag)
        return numbers[0] if numbers else default

    @property
    def size(self) -> int:
        """Return the total bytes of all values, which a decoder that reads every tag copies."""
        return sum(entry.size for entry in self.all_entries)

    @property
    def fields(self) -> int:
        """Return the number of values that become Python objects in Pillow: all but bytes and text."""
        return sum(entry.count for entry in self.all_entries if entry.type not in _OPAQUE)


def first_directory(content: bytes) -> Directory:
    """Read the directory that a TIFF file's header points to.

    Raises:
        BadDirectory: it cannot be read.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or len(content) < 16:
        raise BadDirectory
    big = struct.unpack_from(f"{order}H", content, 2)[0] == 43
    (at,) = struct.unpack_from(f"{order}Q", content, 8) if big else struct.unpack_from(f"{order}I", content, 4)
    return directory(content, at, order, big=big)


def directory(content: bytes, at: int, order: str, *, big: bool = False) -> Directory:
    """Read the directory at an offset. big: the file is a BigTIFF.

    Raises:
        BadDirectory: it cannot be read.
    """
    count_form, entry_form, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    start = at + struct.calcsize(f"{order}{count_form}")
    step = struct.calcsize(f"{order}{entry_form}")
    if start > len(content):
        raise BadDirectory
    (count,) = struct.unpack_from(f"{order}{count_form}", content, at)
    if count > _MAX_ENTRIES or start + count * step > len(content):
        raise BadDirectory
    entries: dict[int, Entry] = {}
    all_entries, repeated = [], set()
    for i in range(count):
        tag, kind, number, value = struct.unpack_from(f"{order}{entry_form}", content, start + i * step)
        entry = Entry(kind, number, start + (i + 1) * step - inline)
        if entry.size > inline:
            entry = Entry(kind, number, struct.unpack(f"{order}{'Q' if big else 'I'}", value)[0])
        all_entries.append(entry)
        if tag in entries:
            repeated.add(tag)
        entries.setdefault(tag, entry)
    return Directory(content, order, entries, all_entries, frozenset(repeated))


def orientation(exif: bytes) -> int | None:
    """Return an Exif block's orientation, 1 to 8 if it is valid; None if it is damaged or has no orientation."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    try:
        numbers = first_directory(exif).numbers(ORIENTATION)
    except BadDirectory:
        return None
    return numbers[0] if numbers else None
