"""TIFF: counts and offsets that are believed, tiles larger than their picture, and one blob behind all of them."""

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
    """One tag: its type, how many values, and the values as bytes (or as one number)."""

    tag: int
    kind: int
    count: int
    value: bytes | int


Layout = Callable[[int], Sequence[Entry]]
"""Entries by where the data behind them begins."""


def numbers(tag: int, kind: int, *values: int) -> Entry:
    """A tag of those numbers."""
    return Entry(tag, kind, len(values), struct.pack(f"<{len(values)}{_CODES[kind]}", *values))


def repeated(tag: int, kind: int, value: int, count: int) -> Entry:
    """A tag of one number over and over."""
    return Entry(tag, kind, count, struct.pack(f"<{_CODES[kind]}", value) * count)


def rationals(tag: int, count: int) -> Entry:
    """A tag of fractions, each of which Python makes an object for."""
    return Entry(tag, RATIONAL, count, struct.pack("<II", 1, 3) * count)


def directory(entries: Sequence[Entry], start: int, *, following: int = 0, big: bool = False) -> bytes:
    """A directory that lies at `start`, and the values that do not fit into it."""
    head, entry, offset, inline = ("<Q", "<HHQ", "<Q", 8) if big else ("<H", "<HHI", "<I", 4)
    end = start + struct.calcsize(head) + (struct.calcsize(entry) + inline) * len(entries) + inline
    packed, beyond = [struct.pack(head, len(entries))], bytearray()
    for one in sorted(entries, key=lambda one: one.tag):
        field = one.value if isinstance(one.value, bytes) else struct.pack(offset, one.value)
        if len(field) > inline:
            beyond += field
            field = struct.pack(offset, end + len(beyond) - len(field))
        packed.append(struct.pack(entry, one.tag, one.kind, one.count) + field.ljust(inline, b"\0"))
    return b"".join(packed) + struct.pack(offset, following) + beyond


def header(first: int = 8, *, big: bool = False) -> bytes:
    """The first bytes of a file, which say where its first directory is."""
    return struct.pack("<2sHHHQ", b"II", 43, 8, 0, first) if big else struct.pack("<2sHI", b"II", 42, first)


def tiff(entries: Layout | Sequence[Entry], data: bytes = b"", *, big: bool = False, following: int = 0) -> bytes:
    """A file of one directory and the data behind it."""
    start = 16 if big else 8

    def written(at: int) -> bytes:
        chosen = entries(at) if callable(entries) else entries
        return header(start, big=big) + directory(chosen, start, following=following, big=big)

    return written(len(written(0))) + data


def picture(
    width: int, height: int, *, bits: Sequence[int] = (8,), compression: int = NONE, photometric: int = BLACK_IS_ZERO
) -> list[Entry]:
    """The tags that every picture has."""
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
    """A picture in strips, all of which are the same bytes. shared: whether they also stand in the file but once."""
    count = math.ceil(height / rows) * planes

    def entries(at: int) -> Sequence[Entry]:
        return [*base, numbers(ROWS, LONG, rows), *_places(STRIP_OFFSETS, STRIP_SIZES, at, blob, count, shared)]

    return tiff(entries, blob if shared else blob * count)


def in_tiles(base: Sequence[Entry], count: int, tile: tuple[int, int], blob: bytes, *, shared: bool = True) -> bytes:
    """A picture in tiles, all of which are the same bytes. shared: whether they also stand in the file but once."""
    sides = numbers(TILE_WIDTH, LONG, tile[0]), numbers(TILE_HEIGHT, LONG, tile[1])

    def entries(at: int) -> Sequence[Entry]:
        return [*base, *sides, *_places(TILE_OFFSETS, TILE_SIZES, at, blob, count, shared)]

    return tiff(entries, blob if shared else blob * count)


def _places(offsets: int, sizes: int, at: int, blob: bytes, count: int, shared: bool) -> list[Entry]:
    step = 0 if shared else len(blob)
    where = (
        repeated(offsets, LONG, at, count) if shared else numbers(offsets, LONG, *range(at, at + step * count, step))
    )
    return [where, repeated(sizes, LONG, len(blob), count)]


def oversized_tiles(columns: int = 3000, tile: tuple[int, int] = (16, 1_000_000)) -> bytes:
    """Tiles that are far higher than their picture; all of them are inflated whole."""
    width = columns * tile[0]
    return in_tiles(picture(width, 16, compression=DEFLATE), columns, tile, zeros(tile[0] * tile[1]))


def one_oversized_tile(side: int = 43_008) -> bytes:
    """A picture of one pixel in a tile of 1.8 gigapixels."""
    return in_tiles(picture(1, 1, compression=DEFLATE), 1, (side, side), zeros(side * side))


def contradicting_tiles(side: int = 43_008) -> bytes:
    """The same, and behind each tag of the tile another one that says 16: of those that come twice the first counts."""
    said_again = [numbers(TILE_WIDTH, LONG, 16), numbers(TILE_HEIGHT, LONG, 16)]
    entries = picture(1, 1, compression=DEFLATE)
    blob = zeros(side * side)
    sides = [numbers(TILE_WIDTH, LONG, side), numbers(TILE_HEIGHT, LONG, side), *said_again]
    return tiff(lambda at: [*entries, *sides, *_places(TILE_OFFSETS, TILE_SIZES, at, blob, 1, True)], blob)


def contradicting_tag(tag: int, count: int = 1_100_000) -> bytes:
    """Fractions where a few numbers are due, and behind them the tag as it should be."""
    right = numbers(tag, SHORT, 8)
    base = [one for one in picture(16, 16) if one.tag != tag]
    return tiff(lambda at: [*base, numbers(STRIP_OFFSETS, LONG, at), rationals(tag, count), right], bytes(256))


def oversized_strip(rows: int = 1_800_000) -> bytes:
    """A picture of one row whose strip says that it has many."""
    return in_strips(picture(1000, 1, compression=DEFLATE), 1, rows, zeros(1000 * rows))


def byte_offsets(count: int = 2_000_000, height: int = 2) -> bytes:
    """Uncompressed, with an offset a byte of the file: Pillow makes a tile of each."""
    base = [*picture(8, height), numbers(ROWS, SHORT, 1)]
    return tiff([*base, Entry(STRIP_OFFSETS, BYTE, count, b"\x08" * count)])


def wide_rows(rows: int = 20_000, width: int = 2 * MEGABYTE) -> bytes:
    """Uncompressed, of rows longer than the picture may have pixels for, all of which lie at one place."""
    height = min(rows, 64_000_000 // width)
    base = [*picture(width, height), numbers(ROWS, SHORT, 1)]
    return tiff(lambda at: [*base, repeated(STRIP_OFFSETS, LONG, at, rows)], bytes(width))


def overlapping_strips(strips: int = 500_000) -> bytes:
    """Uncompressed strips that begin at ever other places, drawn over the picture again and again."""
    width, height, copies = 64, 64, strips
    base = [*picture(width, height), numbers(ROWS, SHORT, 1)]
    places = (8 + i % 4096 for i in range(copies))
    return tiff([*base, numbers(STRIP_OFFSETS, LONG, *places)], bytes(8192))


def rational_offsets(count: int = 1_000_000) -> bytes:
    """Offsets that are fractions."""
    return tiff([*picture(8, 2), numbers(ROWS, SHORT, 1), rationals(STRIP_OFFSETS, count)])


def rational_tag(tag: int, count: int = 1_100_000, *, photometric: int = BLACK_IS_ZERO) -> bytes:
    """Fractions where a few numbers are due."""
    base = [one for one in picture(16, 16, photometric=photometric) if one.tag != tag]
    return tiff(lambda at: [*base, numbers(STRIP_OFFSETS, LONG, at), rationals(tag, count)], bytes(256))


def short_tag(tag: int, count: int = 4_000_000) -> bytes:
    """Millions of numbers where a few are due."""
    base = [one for one in picture(16, 16) if one.tag != tag]
    return tiff(lambda at: [*base, numbers(STRIP_OFFSETS, LONG, at), repeated(tag, SHORT, 1, count)], bytes(256))


def many_tags(count: int = 4000, *, compression: int = DEFLATE, size: int = 0) -> bytes:
    """Tags of no known kind; libtiff sorts all of them again for each. size: of the values, which all share."""
    first = 50_000 - 2 * count  # even numbers below those that have a meaning, and above

    def entries(at: int) -> Sequence[Entry]:
        tags = [number for number in range(first, first + 2 * count, 2) if number not in (EXIF, GPS, PROFILE)]
        unknown = [Entry(tag, BYTE, max(1, size), at if size else 0) for tag in tags]
        data = numbers(STRIP_OFFSETS, LONG, at + size), numbers(STRIP_SIZES, LONG, len(blob))
        return [*picture(16, 16, compression=compression), *data, *unknown]

    blob = zeros(256)
    return tiff(entries, bytes(size) + blob)


def large_directory(count: int = 100_000) -> bytes:
    """A BigTIFF of a directory of a hundred thousand tags."""
    spare = [Entry(40_000 + i % 8000, BYTE, 1, 0) for i in range(count)]
    return tiff(lambda at: [*picture(16, 16), numbers(STRIP_OFFSETS, LONG, at), *spare], bytes(256), big=True)


def many_directories(count: int = 65_000) -> bytes:
    """Pictures without number, of which only the first is decoded; the last one points back to the first."""
    blob = zeros(256)
    page = [*picture(16, 16, compression=DEFLATE), numbers(STRIP_SIZES, LONG, len(blob))]
    step = len(directory([*page, numbers(STRIP_OFFSETS, LONG, 0)], 8))
    page.append(numbers(STRIP_OFFSETS, LONG, 8 + step * count))
    starts = [*range(8, 8 + step * count, step), 8]
    return header() + b"".join(directory(page, at, following=then) for at, then in pairwise(starts)) + blob


def nested_rationals(count: int = 1_100_000) -> bytes:
    """Three nested directories that share their fractions, all of which Pillow reads once the picture is decoded."""
    values = struct.pack("<II", 1, 3) * count
    pixels = bytes(256)

    def nested(start: int) -> bytes:
        # Behind the first directory: the pixels, the fractions, then the three.
        places = start + len(pixels), start + len(pixels) + len(values)
        fractions = Entry(40_000, RATIONAL, count, places[0])
        return directory([fractions, numbers(INTEROPERABILITY, LONG, places[1])], places[1])

    def entries(at: int) -> Sequence[Entry]:
        place = at + len(pixels) + len(values)
        return [
            *picture(16, 16),
            numbers(STRIP_OFFSETS, LONG, at),
            numbers(EXIF, LONG, place),
            numbers(GPS, LONG, place),
        ]

    start = len(tiff(entries))
    return tiff(entries, pixels + values + nested(start))


def many_small_strips(compression: int, blob: bytes, *, strips: int = 500_000, width: int = 16) -> bytes:
    """Strips of a row each: what it takes to begin one is the cost."""
    return in_strips(picture(width, strips, compression=compression), strips, 1, blob)


def saved_strip(name: str, width: int = 16) -> bytes:
    """The data of a one-row picture in that compression, by Pillow's name for it."""
    image = Image.new("L", (width, 1))
    content = saved(image, "TIFF", compression=name)
    with Image.open(io.BytesIO(content)) as opened:
        tags = opened.tag_v2  # type: ignore[attr-defined]
        at, length = tags[STRIP_OFFSETS][0], tags[STRIP_SIZES][0]
    return content[at : at + length]


def jpeg_strips(side: int = 512, strips: int = 244) -> bytes:
    """Strips that are all one JPEG of many scans."""
    base = picture(side, side * strips, compression=JPEG)
    return in_strips(base, side * strips, side, jpeg.shared_scans_strip(side))


def fax(height: int = 30_000_000) -> bytes:
    """A fax of rows that are damaged, of each of which libtiff writes a line to the error stream."""
    base = picture(1, height, bits=(1,), compression=GROUP3, photometric=WHITE_IS_ZERO)
    return in_strips(base, height, height, b"\xff\x00\x55" * (FULL // 3))


def large(
    bits: Sequence[int], photometric: int, *, side: int = 8000, height: int = 8000, extra: Sequence[Entry] = ()
) -> bytes:
    """As many pixels as are allowed, in one strip of zeros."""
    base = [*picture(side, height, bits=bits, compression=DEFLATE, photometric=photometric), *extra]
    return in_strips(base, height, height, zeros(side * height * sum(bits) // 8))


def large_luma(side: int = 8000) -> bytes:
    """As many pixels as are allowed, of colours that are stored as luma and chroma."""
    chroma = numbers(SUBSAMPLING, SHORT, 2, 2)
    base = [*picture(side, side, bits=(8, 8, 8), compression=DEFLATE, photometric=YCBCR), chroma]
    return in_strips(base, side, side, zeros(side * side * 3 // 2))


def tall(bits: Sequence[int] = (8, 8, 8, 8), height: int = 64_000_000) -> bytes:
    """One pixel wide: a row takes far more memory than its pixel."""
    return large(bits, RGB, side=1, height=height, extra=[numbers(EXTRA_SAMPLES, SHORT, 2)])


def tall_float(height: int = 64_000_000) -> bytes:
    """The same of numbers whose range has to be found first."""
    return large((32,), BLACK_IS_ZERO, side=1, height=height, extra=[numbers(SAMPLE_FORMAT, SHORT, 3)])


def with_profile(profile: bytes, mode: str = "CMYK", size: tuple[int, int] = (1, 1)) -> bytes:
    """A picture of one colour with that profile."""
    return saved(Image.new(mode, size), "TIFF", icc_profile=profile)
