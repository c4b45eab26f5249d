"""EXIF: small directories with large values."""

from densenet.fuzz.files import tiff
from densenet.fuzz.files.tiff import Entry, numbers, rationals

SIDEWAYS = numbers(tiff.ORIENTATION, tiff.SHORT, 6)


def block(*entries: Entry) -> bytes:
    """Build an EXIF block of tags, as in a PNG."""
    return tiff.tiff(entries)


def sideways_rationals(count: int = 1_200_000) -> bytes:
    """Build a block with an orientation and many fractions, which Pillow rewrites without the orientation."""
    return block(SIDEWAYS, rationals(0x9999, count))


def rational_orientation(count: int = 1_200_000) -> bytes:
    """Build a block whose orientation has more than a million fractions."""
    return block(rationals(tiff.ORIENTATION, count))


def rational_resolution(count: int = 1_100_000) -> bytes:
    """Build a block whose resolution has more than a million fractions; Pillow reads it when it opens a JPEG."""
    return block(numbers(296, tiff.SHORT, 2), rationals(tiff.X_RESOLUTION, count))


def shared_values(count: int = 100_000, tags: int = 800) -> bytes:
    """Build a block with many tags that share one large value."""
    size = 8 * count
    entries = [SIDEWAYS, *(Entry(0x9000 + i, tiff.RATIONAL, count, 8) for i in range(tags))]
    return tiff.tiff(entries, bytes(size))


def nested(count: int = 1_100_000) -> bytes:
    """Build a block with an orientation and nested directories of fractions."""
    start = len(block(SIDEWAYS, numbers(tiff.EXIF, tiff.LONG, 0), numbers(tiff.GPS, tiff.LONG, 0)))
    head = block(SIDEWAYS, numbers(tiff.EXIF, tiff.LONG, start), numbers(tiff.GPS, tiff.LONG, start))
    return head + tiff.directory([rationals(0x9999, count)], start)
