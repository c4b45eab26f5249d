"""Read the segments of JPEG files, without decoding anything. Source: ITU-T T.81, annex B."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

EOI, SOS, APP1 = 0xD9, 0xDA, 0xE1
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = (0x01, *range(0xD0, EOI + 1))
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_MARKER_IN_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_COEFFICIENTS = 64


@dataclass(frozen=True)
class Segment:
    """One segment, or a marker that stands alone."""

    marker: int
    start: int
    """Offset of what follows the marker: the length and the payload."""
    end: int
    """Offset of the next byte after it; of a scan, after its header."""
    padding: int
    """Bytes between the previous segment and this one; 0 after a scan, whose data they are."""


def segments(content: bytes, start: int = 0, end: int = sys.maxsize) -> Iterator[Segment]:
    """Yield the segments of the JPEG at an offset, up to the end of its image or of the file.

    What follows the image is not read: phones append a video there.
    """
    at, scanning = start + 2, False
    while match := (_MARKER_IN_SCAN if scanning else _MARKER).search(content, at, end):
        marker, begin = match[1][0], match.end()
        length = 0 if marker in _STANDALONE else int.from_bytes(content[begin : begin + 2])
        yield Segment(marker, begin, begin + length, 0 if scanning else begin - 2 - at)
        if marker == EOI and scanning:
            return
        scanning = scanning or marker == SOS
        at = begin + length


def lacks_only_its_end(content: bytes) -> bool:
    """Return whether a JPEG has no end marker, but every scan of every component, to the last bit of its coefficients.

    The data of the last scan may still be cut.
    """
    missing: set[tuple[int, int]] | None = None  # pairs of a component and a coefficient that no scan has completed
    segment = None
    for segment in segments(content):
        payload = content[segment.start + 2 : segment.end]
        if segment.marker in FRAMES:
            components = payload[6 : 6 + 3 * payload[5] : 3]
            missing = {(component, i) for component in components for i in range(_COEFFICIENTS)}
        elif segment.marker == SOS and missing:
            *selectors, first, last, bits = payload[1:]
            if bits & 15 == 0:
                missing -= {(component, i) for component in selectors[::2] for i in range(first, last + 1)}
    return missing == set() and segment is not None and segment.marker != EOI
