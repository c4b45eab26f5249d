"""TIFF: unchecked counts and offsets, tiles larger than the image, and one blob shared by all of them."""

import io
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image

from densenet.fuzz.files import FULL, MEGABYTE, jpeg, saved, zeros

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 1, 2, 3, 4, 5, 7, 16
_SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1, LONG8: 8}
_CODES = {BYTE: "B", SHORT: "H", LONG: "I", LONG8: "Q"}

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS, STRIP_SIZES = 273, 274, 277, 278, 279
X_RESOLUTION, Y_RESOLUTION, PLANAR, COLOUR_MAP = 282, 283, 284, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 324, 325, 338, 339
JPEG_TABLES, SUBSAMPLING, EXIF, PROFILE, GPS, INTEROPERABILITY = 347, 530, 34665, 34675, 34853, 40965

NONE, LZW, JPEG, DEFLATE, PACKBITS, THUNDERSCAN, LZMA, ZSTD = 1, 5, 7, 8, 32773, 32809, 34925, 50000
GROUP3, GROUP4 = 3, 4
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8


@dataclass(frozen=True)
class Entry:
    """A tag: its type, the number of values, and the values as bytes or as one number."""

    tag: int
    kind: int
    count: int
    value: bytes | int


Layout = Callable[[int], Sequence[Entry]]
"""A function from the offset of the data after the directory to the directory's entries."""


def numbers(tag: int, kind: int, *values: int) -> Entry:
    """Build a tag of numbers."""
    return Entry(tag, kind, len(values), struct.pack(f"<{len(values)}{_CODES[kind]}", *values))


def repeated(tag: int, kind: int, value: int, count: int) -> Entry:
    """Build a tag of a repeated number."""
    return Entry(tag, kind, count, struct.pack(f"<{_CODES[kind]}", value) * count)


def rationals(tag: int, count: int) -> Entry:
    """Build a tag of fractions, for each of which Python creates an object."""
    return Entry(tag, RATIONAL, count, struct.pack("<II", 1, 3) * count)


def directory(entries: Sequence[Entry], start: int, *, following: int = 0, big: bool = False) -> bytes:
    """Build a directory at offset `start`, followed by the values that do not fit into it."""
    head, entry, offset, inline = ("<Q", "<HHQ", "<Q", 8) if big else ("<H", "<HHI", "<I", 4)
    end = start + struct.calcsize(head) + (struct.calcsize(entry) + inline) * len(entries) + inline
    packed, beyond = [struct.pack(head, len(entries))], bytearray()
    for item in sorted(entries, key=lambda item: item.tag):
        field = item.value if isinstance(item.value, bytes) else struct.pack(offset, item.value)
        if len(field) > inline:
            beyond += field
            field = struct.pack(offset, end + len(beyond) - len(field))
        packed.append(struct.pack(entry, item.tag, item.kind, item.count) + field.ljust(inline, b"\0"))
    return b"".join(packed) + struct.pack(offset, following) + beyond


def header(first: int = 8, *, big: bool = False) -> bytes:
    """Build the header, with the offset of the first directory."""
    return struct.pack("<2sHHHQ", b"II", 43, 8, 0, first) if big else struct.pack("<2sHI", b"II", 42, first)


def tiff(entries: Layout | Sequence[Entry], data: bytes = b"", *, big: bool = False, following: int = 0) -> bytes:
    """Build a file of one directory followed by data."""
    start = 16 if big else 8

    def written(at: int) -> bytes:
        chosen = entries(at) if callable(entries) else entries
        return header(start, big=big) + directory(chosen, start, following=following, big=big)

    return written(len(written(0))) + data


def image_tags(
    width: int, height: int, *, bits: Sequence[int] = (8,), compression: int = NONE, photometric: int = BLACK_IS_ZERO
) -> list[Entry]:
    """Return the tags that every image has."""
    return [
        numbers(WIDTH, LONG, width),
        numbers(HEIGHT, LONG, height),
        numbers(BITS, SHORT, *bits),
        numbers(COMPRESSION, SHORT, compression),
        numbers(PHOTOMETRIC, SHORT, photometric),
        numbers(SAMPLES, SHORT, len(bits)),
    ]


def in_strips(
    base: Sequence[Entry], height: int, rows: int, blob: bytes, *, planes: int = 1, shared: bool = True
) -> bytes:
    """Build an image of identical strips. shared: whether the file stores their bytes only once."""
    count = math.ceil(height / rows) * planes

    def entries(at: int) -> Sequence[Entry]:
        return [*base, numbers(ROWS, LONG, rows), *_positions(STRIP_OFFSETS, STRIP_SIZES, at, blob, count, shared)]

    return tiff(entries, blob if shared else blob * count)


def in_tiles(base: Sequence[Entry], count: int, tile: tuple[int, int], blob: bytes, *, shared: bool = True) -> bytes:
    """Build an image of identical tiles. shared: whether the file stores their bytes only once."""
    sides = numbers(TILE_WIDTH, LONG, tile[0]), numbers(TILE_HEIGHT, LONG, tile[1])

    def entries(at: int) -> Sequence[Entry]:
        return [*base, *sides, *_positions(TILE_OFFSETS, TILE_SIZES, at, blob, count, shared)]

    return tiff(entries, blob if shared else blob * count)


def _positions(offsets: int, sizes: int, at: int, blob: bytes, count: int, shared: bool) -> list[Entry]:
    step = 0 if shared else len(blob)
    where = (
        repeated(offsets, LONG, at, count) if shared else numbers(offsets, LONG, *range(at, at + step * count, step))
    )
    return [where, repeated(sizes, LONG, len(blob), count)]


def oversized_tiles(columns: int = 3000, tile: tuple[int, int] = (16, 1_000_000)) -> bytes:
    """Build an image with tiles far higher than the image, which are inflated entirely."""
    width = columns * tile[0]
    return in_tiles(image_tags(width, 16, compression=DEFLATE), columns, tile, zeros(tile[0] * tile[1]))


def one_oversized_tile(side: int = 43_008) -> bytes:
    """Build an image of one pixel in a tile of 1.8 gigapixels."""
    return in_tiles(image_tags(1, 1, compression=DEFLATE), 1, (side, side), zeros(side * side))


def contradicting_tiles(side: int = 43_008) -> bytes:
    """Build an image with an oversized tile and duplicate tags of 16, of which the first ones count."""
    repeated = [numbers(TILE_WIDTH, LONG, 16), numbers(TILE_HEIGHT, LONG, 16)]
    entries = image_tags(1, 1, compression=DEFLATE)
    blob = zeros(side * side)
    sides = [numbers(TILE_WIDTH, LONG, side), numbers(TILE_HEIGHT, LONG, side), *repeated]
    return tiff(lambda at: [*entries, *sides, *_positions(TILE_OFFSETS, TILE_SIZES, at, blob, 1, True)], blob)


def contradicting_tag(tag: int, count: int = 1_100_000) -> bytes:
    """Build an image with fractions in a tag of few numbers, followed by the correct tag."""
    right = numbers(tag, SHORT, 8)
    base = [item for item in image_tags(16, 16) if item.tag != tag]
    return tiff(lambda at: [*base, numbers(STRIP_OFFSETS, LONG, at), rationals(tag, count), right], bytes(256))


def oversized_strip(rows: int = 1_800_000) -> bytes:
    """Build an image of one row whose strip declares many."""
    return in_strips(image_tags(1000, 1, compression=DEFLATE), 1, rows, zeros(1000 * rows))


def byte_offsets(count: int = 2_000_000, height: int = 2) -> bytes:
    """Build an uncompressed image with an offset for each byte of the file; Pillow creates a tile for each."""
    base = [*image_tags(8, height), numbers(ROWS, SHORT, 1)]
    return tiff([*base, Entry(STRIP_OFFSETS, BYTE, count, b"\x08" * count)])


def wide_rows(rows: int = 20_000, width: int = 2 * MEGABYTE) -> bytes:
    """Build an uncompressed image of very long rows that all share one offset."""
    height = min(rows, 64_000_000 // width)
    base = [*image_tags(width, height), numbers(ROWS, SHORT, 1)]
    return tiff(lambda at: [*base, repeated(STRIP_OFFSETS, LONG, at, rows)], bytes(width))


def overlapping_strips(strips: int = 500_000) -> bytes:
    """Build an uncompressed image of overlapping strips, which overwrite the image repeatedly."""
    width, height, copies = 64, 64, strips
    base = [*image_tags(width, height), numbers(ROWS, SHORT, 1)]
    positions = (8 + i % 4096 for i in range(copies))
    return tiff([*base, numbers(STRIP_OFFSETS, LONG, *positions)], bytes(8192))


def rational_offsets(count: int = 1_000_000) -> bytes:
    """Build an image whose offsets are fractions."""
    return tiff([*image_tags(8, 2), numbers(ROWS, SHORT, 1), rationals(STRIP_OFFSETS, count)])


def rational_tag(tag: int, count: int = 1_100_000, *, photometric: int = BLACK_IS_ZERO) -> bytes:
    """Build an image with fractions in a tag of few numbers."""
    base = [item for item in image_tags(16, 16, photometric=photometric) if item.tag != tag]
    return tiff(lambda at: [*base, numbers(STRIP_OFFSETS, LONG, at), rationals(tag, count)], bytes(256))


def short_tag(tag: int, count: int = 4_000_000) -> bytes:
    """Build an image with millions of numbers in a tag of few."""
    base = [item for item in image_tags(16, 16) if item.tag != tag]
    return tiff(lambda at: [*base, numbers(STRIP_OFFSETS, LONG, at), repeated(tag, SHORT, 1, count)], bytes(256))


def many_tags(count: int = 4000, *, compression: int = DEFLATE, size: int = 0) -> bytes:
    """Build an image with unknown tags, which libtiff sorts again for each. size: bytes of their shared values."""
    first = 50_000 - 2 * count  # even numbers below and above those of known tags

    def entries(at: int) -> Sequence[Entry]:
        tags = [number for number in range(first, first + 2 * count, 2) if number not in (EXIF, GPS, PROFILE)]
        unknown = [Entry(tag, BYTE, max(1, size), at if size else 0) for tag in tags]
        data = numbers(STRIP_OFFSETS, LONG, at + size), numbers(STRIP_SIZES, LONG, len(blob))
        return [*image_tags(16, 16, compression=compression), *data, *unknown]

    blob = zeros(256)
    return tiff(entries, bytes(size) + blob)


def large_directory(count: int = 100_000) -> bytes:
    """Build a BigTIFF with a directory of a hundred thousand tags."""
    spare = [Entry(40_000 + i % 8000, BYTE, 1, 0) for i in range(count)]
    return tiff(lambda at: [*image_tags(16, 16), numbers(STRIP_OFFSETS, LONG, at), *spare], bytes(256), big=True)


def many_directories(count: int = 65_000) -> bytes:
    """Build a file of many images, of which only the first is decoded; the last one points back to the first."""
    blob = zeros(256)
    page = [*image_tags(16, 16, compression=DEFLATE), numbers(STRIP_SIZES, LONG, len(blob))]
    step = len(directory([*page, numbers(STRIP_OFFSETS, LONG, 0)], 8))
    page.append(numbers(STRIP_OFFSETS, LONG, 8 + step * count))
    starts = [*range(8, 8 + step * count, step), 8]
    return header() + b"".join(directory(page, at, following=then) for at, then in pairwise(starts)) + blob


def nested_rationals(count: int = 1_100_000) -> bytes:
    """Build three nested directories that share their fractions, which Pillow reads after decoding the image."""
    values = struct.pack("<II", 1, 3) * count
    pixels = bytes(256)

    def nested(start: int) -> bytes:
        # After the first directory come the pixels, the fractions, then the three directories.
        positions = start + len(pixels), start + len(pixels) + len(values)
        fractions = Entry(40_000, RATIONAL, count, positions[0])
        return directory([fractions, numbers(INTEROPERABILITY, LONG, positions[1])], positions[1])

    def entries(at: int) -> Sequence[Entry]:
        place = at + len(pixels) + len(values)
        return [
            *image_tags(16, 16),
            numbers(STRIP_OFFSETS, LONG, at),
            numbers(EXIF, LONG, place),
            numbers(GPS, LONG, place),
        ]

    start = len(tiff(entries))
    return tiff(entries, pixels + values + nested(start))


def many_small_strips(compression: int, blob: bytes, *, strips: int = 500_000, width: int = 16) -> bytes:
    """Build an image of one-row strips, because starting a strip is costly."""
    return in_strips(image_tags(width, strips, compression=compression), strips, 1, blob)


def saved_strip(name: str, width: int = 16) -> bytes:
    """Return the data of a one-row image in a compression, by Pillow's name for it."""
    image = Image.new("L", (width, 1))
    content = saved(image, "TIFF", compression=name)
    with Image.open(io.BytesIO(content)) as opened:
        tags = opened.tag_v2  # type: ignore[attr-defined]
        at, length = tags[STRIP_OFFSETS][0], tags[STRIP_SIZES][0]
    return content[at : at + length]


def jpeg_strips(side: int = 512, strips: int = 244) -> bytes:
    """Build an image whose strips are the same JPEG of many scans."""
    base = image_tags(side, side * strips, compression=JPEG)
    return in_strips(base, side * strips, side, jpeg.shared_scans_strip(side))


def fax(height: int = 30_000_000) -> bytes:
    """Build a fax of damaged rows, for each of which libtiff writes a line to stderr."""
    base = image_tags(1, height, bits=(1,), compression=GROUP3, photometric=WHITE_IS_ZERO)
    return in_strips(base, height, height, b"\xff\x00\x55" * (FULL // 3))


def large(
    bits: Sequence[int], photometric: int, *, side: int = 8000, height: int = 8000, extra: Sequence[Entry] = ()
) -> bytes:
    """Build an image with the maximum number of pixels in one strip of zeros."""
    base = [*image_tags(side, height, bits=bits, compression=DEFLATE, photometric=photometric), *extra]
    return in_strips(base, height, height, zeros(side * height * sum(bits) // 8))


def large_luma(side: int = 8000) -> bytes:
    """Build an image with the maximum number of pixels, stored as luma and chroma."""
    chroma = numbers(SUBSAMPLING, SHORT, 2, 2)
    base = [*image_tags(side, side, bits=(8, 8, 8), compression=DEFLATE, photometric=YCBCR), chroma]
    return in_strips(base, side, side, zeros(side * side * 3 // 2))


def tall(bits: Sequence[int] = (8, 8, 8, 8), height: int = 64_000_000) -> bytes:
    """Build an image of width 1, because a row takes far more memory than its pixel."""
    return large(bits, RGB, side=1, height=height, extra=[numbers(EXTRA_SAMPLES, SHORT, 2)])


def tall_float(height: int = 64_000_000) -> bytes:
    """Build an image of width 1 with floats, whose range the decoder must determine first."""
    return large((32,), BLACK_IS_ZERO, side=1, height=height, extra=[numbers(SAMPLE_FORMAT, SHORT, 3)])


def with_profile(profile: bytes, mode: str = "CMYK", size: tuple[int, int] = (1, 1)) -> bytes:
    """Build an image of one colour with a profile."""
    return saved(Image.new(mode, size), "TIFF", icc_profile=profile)
