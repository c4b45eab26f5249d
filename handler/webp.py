"""Mend WebP files that are cut behind their image. Source: the WebP container specification, RFC 9649."""

import struct

_HEADER = 12  # RIFF, the size, WEBP
_EXTENDED, _FLAGS = b"VP8X", 8  # a chunk, and the offset of the flags in it
_METADATA = {b"EXIF": 0x08, b"XMP ": 0x04}  # chunks behind the image → their flags


def without_damage(content: bytes) -> bytes:
    """Return a WebP without the chunk that is cut, with its true size in the header and only true flags."""
    at, kept, kinds = _HEADER, bytearray(), set()
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        if at + 8 + size > len(content):
            break
        kinds.add(kind)
        kept += content[at : at + 8 + size].ljust(8 + size + size % 2, b"\0")
        at += 8 + size + size % 2
    if kept.startswith(_EXTENDED):
        for kind in _METADATA.keys() - kinds:
            kept[_FLAGS] &= ~_METADATA[kind]
    return b"RIFF" + struct.pack("<I", 4 + len(kept)) + b"WEBP" + kept
