"""Tags of TIFF files, and of Exif blocks, which are TIFF files without an image.

Reads only what is asked for, and never a value that the file does not hold. Sources: TIFF 6.0 (Adobe, 1992), the
BigTIFF design, Exif 2.32.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ORIENTATION = 274
_MAX_ENTRIES = 4096  # of a directory; cameras and scanners write less than two hundred
# Bytes of one value by its type, and how struct reads the types that are whole numbers.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}
_OPAQUE = (1, 2, 6, 7)  # bytes and text, which decoders take as they are


class BadDirectory(Exception):
    """A directory that breaks off, is not where the file says, or has more entries than any file needs."""


@dataclass(frozen=True)
class Entry:
    """One tag: the type and number of its values, and where in the content they stand."""

    type: int
    count: int
    at: int

    @property
    def size(self) -> int:
        """Bytes of all its values; 0 of an unknown type, which decoders pass over."""
        return self.count * _SIZES.get(self.type, 0)


@dataclass(frozen=True)
class Directory:
    """The tags of one directory of a file."""

    content: bytes
    order: str
    """`<` or `>`, as struct has it."""
    entries: Mapping[int, Entry]
    """The first of each kind, as Pillow and libtiff read them."""
    every: Sequence[Entry]
    """Those that come again, too."""
    twice: frozenset[int]
    """The tags that do."""

    def numbers(self, tag: int) -> tuple[int, ...] | None:
        """Return a tag's whole numbers (16 to 64 bits); None for other types, or values outside the file."""
        entry = self.entries.get(tag)
        if entry is None or entry.type not in _INTEGERS or entry.at + entry.size > len(self.content):
            return None
        return struct.unpack_from(f"{self.order}{entry.count}{_INTEGERS[entry.type]}", self.content, entry.at)

    def number(self, tag: int, default: int) -> int:
        """Return a tag's first whole number."""
        numbers = self.numbers(tag)
        return numbers[0] if numbers else default

    @property
    def size(self) -> int:
        """Bytes of all values together: what a decoder that reads every tag copies."""
        return sum(entry.size for entry in self.every)

    @property
    def fields(self) -> int:
        """How many values a decoder in Python would make objects of: all that are not bytes or text."""
        return sum(entry.count for entry in self.every if entry.type not in _OPAQUE)


def first_directory(content: bytes) -> Directory:
    """Read the directory that a TIFF file's header points to. Raises BadDirectory."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or len(content) < 16:
        raise BadDirectory
    big = struct.unpack_from(f"{order}H", content, 2)[0] == 43
    (at,) = struct.unpack_from(f"{order}Q", content, 8) if big else struct.unpack_from(f"{order}I", content, 4)
    return directory(content, at, order, big=big)


def directory(content: bytes, at: int, order: str, *, big: bool = False) -> Directory:
    """Read the directory at an offset. big: in BigTIFF's form. Raises BadDirectory."""
    count_form, entry_form, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    start = at + struct.calcsize(f"{order}{count_form}")
    step = struct.calcsize(f"{order}{entry_form}")
    if start > len(content):
        raise BadDirectory
    (count,) = struct.unpack_from(f"{order}{count_form}", content, at)
    if count > _MAX_ENTRIES or start + count * step > len(content):
        raise BadDirectory
    entries: dict[int, Entry] = {}
    every, twice = [], set()
    for i in range(count):
        tag, kind, number, value = struct.unpack_from(f"{order}{entry_form}", content, start + i * step)
        entry = Entry(kind, number, start + (i + 1) * step - inline)
        if entry.size > inline:
            entry = Entry(kind, number, struct.unpack(f"{order}{'Q' if big else 'I'}", value)[0])
        every.append(entry)
        if tag in entries:
            twice.add(tag)
        entries.setdefault(tag, entry)
    return Directory(content, order, entries, every, frozenset(twice))


def orientation(exif: bytes) -> int | None:
    """Return the orientation in an Exif block, 1 to 8 in a sound one; None where it is damaged or gives none."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    try:
        numbers = first_directory(exif).numbers(ORIENTATION)
    except BadDirectory:
        return None
    return numbers[0] if numbers else None
