"""Valid files of every accepted kind, and random mutations of their structure."""

import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import pairwise

from PIL import Image

from densenet.fuzz.costly import COSTLY, LIMIT
from densenet.fuzz.files import avif, bmp, exif, icc, jpeg, png, saved, tiff

_SIZE = (40, 24)
_EXTREMES = (0, 1, 2, 16, 255, 256, 4096, 32_767, 32_768, 65_535, 65_536, 1_000_000, 2**31 - 1, 2**31, 2**32 - 1)
_MAX_CHANGES = 4  # per file; with more changes hardly any file is read beyond its header
_JPEG_FRAMES = (b"\xc0", b"\xc1", b"\xc2", b"\xc9")
_BLOCKS = 0x21, 0x2C  # first bytes of GIF blocks: extension, frame

Builder = Callable[[], bytes]
Pieces = list[bytes]


@cache
def _photo(mode: str = "RGB") -> Image.Image:
    """Return a gradient with noise, always the same."""
    noise = random.Random(0).randbytes(3 * _SIZE[0] * _SIZE[1])
    speckled = Image.frombytes("RGB", _SIZE, noise)
    smooth = Image.linear_gradient("L").resize(_SIZE).convert("RGB")
    blended = Image.blend(smooth, speckled, 0.2)
    return blended.convert(mode) if mode != "PA" else blended.convert("P").convert("PA")


def _saved(file_format: str, mode: str = "RGB", **options: object) -> bytes:
    return saved(_photo(mode), file_format, **options)


def _animated(file_format: str, **options: object) -> bytes:
    frames = [_photo().rotate(90 * i) for i in range(1, 4)]
    return saved(_photo(), file_format, save_all=True, append_images=frames, **options)


def _without_end(file_format: str, missing: int) -> bytes:
    return saved(_photo().resize((39, 24)), file_format)[:-missing]


def _tiled(planar: bool = False) -> bytes:
    bits = (8, 8, 8)
    base = [*tiff.image_tags(32, 32, bits=bits, photometric=tiff.RGB, compression=tiff.DEFLATE)]
    if planar:
        base.append(tiff.numbers(tiff.PLANAR, tiff.SHORT, 2))
    blob = zlib.compress(random.Random(1).randbytes(16 * 16 * (1 if planar else 3)))
    return tiff.in_tiles(base, 4 * (3 if planar else 1), (16, 16), blob, shared=False)


def _planar_strips() -> bytes:
    base = [*tiff.image_tags(32, 32, bits=(8, 8, 8), photometric=tiff.RGB), tiff.numbers(tiff.PLANAR, tiff.SHORT, 2)]
    return tiff.in_strips(base, 32, 8, random.Random(2).randbytes(32 * 8), planes=3, shared=False)


_EXIF = exif.block(exif.SIDEWAYS, tiff.rationals(tiff.X_RESOLUTION, 1), tiff.numbers(296, tiff.SHORT, 2))
# Rows of 12 pixels: a run of 8, 4 literal pixels and the end of the line; finally the end of the image.
_RLE8 = b"\x08\1\0\4\1\2\3\4\0\0" * 4 + b"\0\1"
_RLE4 = b"\x08\x12\0\4\x12\x34\0\0" * 4 + b"\0\1"
_LOSSLESS_TIFF = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "lzma", "zstd")
_TIFF_MODES = ("L", "P", "RGBA", "I;16", "I", "F", "LAB", "PA")
_FAX = ("group3", "group4", "tiff_ccitt")

VALID: Mapping[str, Builder] = {
    "jpeg-baseline": partial(_saved, "JPEG"),
    "jpeg-progressive": partial(_saved, "JPEG", progressive=True),
    "jpeg-grey": partial(_saved, "JPEG", "L"),
    "jpeg-inks": partial(_saved, "JPEG", "CMYK", icc_profile=icc.many_stages(2)),
    "jpeg-restarts": partial(_saved, "JPEG", restart_marker_blocks=1, subsampling=0),
    "jpeg-profile": partial(_saved, "JPEG", icc_profile=icc.screen(100)),
    "jpeg-grey-profile": partial(_saved, "JPEG", "L", icc_profile=icc.screen(100, grey=True)),
    "jpeg-without-end": partial(_without_end, "JPEG", 2),
    "jpeg-exif": partial(_saved, "JPEG", exif=b"Exif\0\0" + _EXIF, comment=b"a comment"),
    "jpeg-arithmetic": partial(jpeg.without_data, 40, 24, kind=jpeg.ARITHMETIC),
    "jpeg-multi-picture": partial(_animated, "MPO"),
    **{f"png-{mode}": partial(_saved, "PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "png-interlaced": partial(png.black, 40, 24, png.RGBA, interlaced=True),
    "png-16-bit": partial(png.black, 40, 24, png.RGB, depth=16),
    "png-code-points": png.with_colours,
    "png-gamma": partial(png.with_colours, code_points=b""),
    "png-profile": partial(_saved, "PNG", "RGBA", icc_profile=icc.large_colour_table(5)),
    "png-exif": partial(png.with_exif, _EXIF),
    "png-animated": partial(_animated, "PNG"),
    "gif": partial(_saved, "GIF", "P", transparency=3, comment=b"a comment"),
    "gif-without-end": partial(_without_end, "GIF", 3),
    "gif-animated": partial(_animated, "GIF", disposal=2),
    "webp-lossy": partial(_saved, "WEBP"),
    "webp-lossless": partial(_saved, "WEBP", lossless=True),
    "webp-alpha": partial(_saved, "WEBP", "RGBA", exif=_EXIF),
    "webp-animated": partial(_animated, "WEBP"),
    **{f"bmp-{mode}": partial(_saved, "BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")},
    "bmp-without-end": partial(_without_end, "BMP", 1),
    "bmp-runs": partial(bmp.bmp, 12, 4, _RLE8, compression=bmp.RLE8),
    "bmp-four-bit-runs": partial(bmp.bmp, 12, 4, _RLE4, depth=4, compression=bmp.RLE4),
    **{f"tiff-{name}": partial(_saved, "TIFF", compression=name) for name in _LOSSLESS_TIFF},
    **{f"tiff-{name}": partial(_saved, "TIFF", "1", compression=name) for name in _FAX},
    **{f"tiff-mode-{mode}": partial(_saved, "TIFF", mode) for mode in _TIFF_MODES},
    "tiff-jpeg": partial(_saved, "TIFF", compression="jpeg"),
    "tiff-strips": partial(_saved, "TIFF", compression="tiff_lzw", tiffinfo={tiff.ROWS: 4}),
    "tiff-inks": partial(tiff.with_profile, icc.many_stages(2)),
    "tiff-big": partial(_saved, "TIFF", big_tiff=True),
    "tiff-tiles": _tiled,
    "tiff-planar-tiles": partial(_tiled, planar=True),
    "tiff-planar-strips": _planar_strips,
    "tiff-pages": partial(_animated, "TIFF"),
    "avif": partial(_saved, "AVIF", max_threads=1),
    "avif-alpha": partial(_saved, "AVIF", "RGBA", max_threads=1),
    "avif-animated": partial(_animated, "AVIF", max_threads=1),
    "avif-grid": partial(avif.grid, 2, 2),
    "avif-exif": partial(avif.with_exif, _EXIF),
}
"""Builders of files that can be decoded, one per kind."""

# Costly files that are small enough to grow.
_SMALL = (
    *("bmp-early-end-of-line", "jpeg-scans", "jpeg-scans-of-nothing", "jpeg-scans-of-nothing-arithmetic"),
    *("jpeg-nothing-progressive", "jpeg-nothing-arithmetic", "jpeg-narrow", "gif-large", "png-named-texts"),
    *("webp-lossless", "webp-large-canvas", "tiff-oversized-tiles", "tiff-tags", "tiff-jpeg-strips"),
    *("tiff-large-luma", "tiff-icc-stages", "avif-large", "avif-larger-than-it-says"),
)
BASES: Mapping[str, Builder] = {**VALID, **{name: COSTLY[name] for name in _SMALL}}
"""Builders of the files from which a long search starts."""


@cache
def _built(build: Builder) -> bytes:
    return build()


def mutated(seed: int, index: int, bases: Mapping[str, Builder] = VALID, limit: int = LIMIT) -> bytes:
    """Return mutation `index` of the seed: a base with one or more changes, independent of earlier calls."""
    rng = random.Random(f"{seed} {index}")
    builders = list(bases.values())
    content = _built(rng.choice(builders))
    for _ in range(rng.randint(1, _MAX_CHANGES)):
        other = _built(rng.choice(builders))
        change = rng.choice(_CHANGES)
        content = change(rng, content, other, limit)[:limit] or other
    return content


def pieces(content: bytes) -> Pieces:
    """Split a file into its segments, chunks, blocks, boxes or directory entries, which join to the same file."""
    for start, cut in _CUTS:
        if content[start[0] :].startswith(start[1]):
            positions = sorted({0, *(at for at in cut(content) if 0 < at < len(content)), len(content)})
            return [content[at:end] for at, end in pairwise(positions)]
    return [content[at : at + 16] for at in range(0, len(content), 16)]


def _jpeg_positions(content: bytes) -> list[int]:
    positions, at = [2], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != jpeg.START_OF_SCAN:
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
        positions.append(at)
    return positions


def _png_positions(content: bytes) -> list[int]:
    positions, at = [8], 8
    while at + 8 <= len(content):
        at += 12 + int.from_bytes(content[at : at + 4])
        positions.append(at)
    return positions


def _gif_positions(content: bytes) -> list[int]:
    # A guess is enough: every byte that looks like the first one of a block.
    return [at for at in range(13, min(len(content), 4096)) if content[at] in _BLOCKS]


def _riff_positions(content: bytes) -> list[int]:
    positions, at = [12], 12
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
        positions.append(at)
    return positions


def _bmp_positions(content: bytes) -> list[int]:
    return [14, 54, int.from_bytes(content[10:14], "little")]


def _box_positions(content: bytes) -> list[int]:
    positions, at = [], 0
    while at + 8 <= len(content):
        size, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        at += 12 if kind == b"meta" else 8 if kind in (b"iprp", b"ipco", b"moov", b"trak") else max(8, size)
        positions.append(at)
    return positions


def _tiff_positions(content: bytes) -> list[int]:
    first, count = _tiff_directory(content)
    return [first, *range(first + 2, first + 2 + 12 * count + 1, 12)]


def _tiff_directory(content: bytes) -> tuple[int, int]:
    """Return the offset of a little-endian TIFF's first directory, and its number of entries."""
    first = int.from_bytes(content[4:8], "little")
    return first, int.from_bytes(content[first : first + 2], "little")


_CUTS: tuple[tuple[tuple[int, bytes], Callable[[bytes], list[int]]], ...] = (
    ((0, b"\xff\xd8"), _jpeg_positions),
    ((0, b"\x89PNG"), _png_positions),
    ((0, b"GIF8"), _gif_positions),
    ((0, b"RIFF"), _riff_positions),
    ((0, b"BM"), _bmp_positions),
    ((0, b"II*\0"), _tiff_positions),
    ((4, b"ftyp"), _box_positions),
)


def sealed(parts: Sequence[bytes]) -> bytes:
    """Join the pieces and correct checksums and total length, so that decoders read beyond them."""
    if parts and parts[0].startswith(b"\x89PNG"):
        parts = [parts[0], *map(_checked, parts[1:])]
    content = b"".join(parts)
    if content.startswith(b"RIFF"):
        content = content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    return content


def _checked(chunk: bytes) -> bytes:
    """Return a PNG chunk with the correct length and checksum."""
    return png.chunk(chunk[4:8], chunk[8:-4]) if len(chunk) >= 12 else chunk


def _flip(rng: random.Random, content: bytes, other: bytes, limit: int) -> bytes:
    """Change random bytes, more often near the start."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        data[rng.randrange(min(len(data), rng.choice((64, 512, len(data)))))] = rng.randrange(256)
    return bytes(data)


def _number(rng: random.Random, content: bytes, other: bytes, limit: int) -> bytes:
    """Replace a number in a piece by an extreme one."""
    parts = pieces(content)
    i = rng.randrange(len(parts))
    code = rng.choice(("<H", ">H", "<I", ">I"))
    parts[i] = _overwritten(parts[i], rng.randrange(max(1, len(parts[i]))), code, rng.choice(_EXTREMES))
    return sealed(parts)


def _overwritten(data: bytes, at: int, code: str, value: int) -> bytes:
    size = struct.calcsize(code)
    field = struct.pack(code, value % (1 << 8 * size))
    return data[:at] + field[: max(0, len(data) - at)] + data[at + size :]


def _repeat(rng: random.Random, content: bytes, other: bytes, limit: int) -> bytes:
    """Repeat a piece."""
    parts = pieces(content)
    i = rng.randrange(len(parts))
    capacity = max(0, limit - len(content)) // max(1, len(parts[i]))
    times = min(capacity, int(10 ** rng.uniform(0, 6)))
    return sealed([*parts[:i], *[parts[i]] * times, *parts[i:]])


def _drop(rng: random.Random, content: bytes, other: bytes, limit: int) -> bytes:
    """Remove a piece, or that piece and all that follow."""
    parts = pieces(content)
    i = rng.randrange(len(parts))
    return sealed(parts[:i] + (parts[i + 1 :] if rng.random() < 0.8 else []))


def _splice(rng: random.Random, content: bytes, other: bytes, limit: int) -> bytes:
    """Insert pieces of another file."""
    parts, others = pieces(content), pieces(other)
    i, start = rng.randrange(len(parts) + 1), rng.randrange(len(others))
    return sealed([*parts[:i], *others[start : start + rng.randint(1, 4)], *parts[i:]])


def _swap(rng: random.Random, content: bytes, other: bytes, limit: int) -> bytes:
    """Swap two pieces."""
    parts = pieces(content)
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    parts[i], parts[j] = parts[j], parts[i]
    return sealed(parts)


def _enlarge(rng: random.Random, content: bytes, other: bytes, limit: int) -> bytes:
    """Change the declared size of the image."""
    fields = sides(content)
    for at, code in rng.sample(fields, min(len(fields), rng.randint(1, 2))):
        if at + struct.calcsize(code) <= len(content):
            value = int(struct.unpack_from(code, content, at)[0])
            grown = rng.choice((value * rng.choice((2, 16, 256, 1000, 40_000)), rng.choice(_EXTREMES)))
            content = _overwritten(content, at, code, grown)
    return sealed(pieces(content))


def sides(content: bytes) -> list[tuple[int, str]]:
    """Return the fields with the sizes of image, canvas, strips and tiles, as (offset, struct format)."""
    if content.startswith(b"\xff\xd8"):
        starts = [at for at in _jpeg_positions(content) if content[at + 1 : at + 2] in _JPEG_FRAMES]
        return [(at + 5 + more, ">H") for at in starts for more in (0, 2)]
    if content.startswith(b"\x89PNG"):
        return [(16, ">I"), (20, ">I")]
    if content.startswith(b"GIF8"):
        frames = [at for at in _gif_positions(content) if content[at] == _BLOCKS[1]]
        return [(6, "<H"), (8, "<H"), *((at + more, "<H") for at in frames for more in (1, 3, 5, 7))]
    if content.startswith(b"BM"):
        return [(18, "<I"), (22, "<I")]
    if content.startswith(b"RIFF"):
        return [(24, "<H"), (27, "<H"), (21, "<I"), *_behind(content, b"\x9d\x01\x2a", (3, 5), "<H")]
    if content.startswith(b"II*\0"):
        first, count = _tiff_directory(content)
        lengths = (tiff.WIDTH, tiff.HEIGHT, tiff.ROWS, tiff.TILE_WIDTH, tiff.TILE_HEIGHT)
        starts = [at for at in range(first + 2, first + 2 + 12 * count, 12) if _tag(content, at) in lengths]
        return [(at + 8, "<I") for at in starts]
    return _behind(content, b"ispe", (8, 12), ">I")


def _tag(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 2], "little")


def _first_number(entry: bytes) -> int:
    return _tag(entry, 0)


def _behind(content: bytes, mark: bytes, positions: Sequence[int], code: str) -> list[tuple[int, str]]:
    at = content.find(mark)
    return [(at + more, code) for more in positions] if at >= 0 else []


def _directory(rng: random.Random, content: bytes, other: bytes, limit: int) -> bytes:
    """Append a new directory to a TIFF, with changed types, counts and offsets, and more entries."""
    first, count = _tiff_directory(content)
    if not content.startswith(b"II*\0") or first + 2 + 12 * count > len(content):
        return _splice(rng, content, other, limit)
    entries = [content[at : at + 12] for at in range(first + 2, first + 2 + 12 * count, 12)]
    for _ in range(rng.randint(1, 3)):
        entries = _changed_entries(rng, entries, len(content))
    ordered: list[bytes] = sorted(entries, key=_first_number)
    moved = content[:4] + struct.pack("<I", len(content)) + content[8:]
    return moved + struct.pack("<H", len(entries)) + b"".join(ordered) + bytes(4)


def _changed_entries(rng: random.Random, entries: list[bytes], length: int) -> list[bytes]:
    if not entries:
        return entries
    i = rng.randrange(len(entries))
    tag, kind, count, value = struct.unpack("<HHII", entries[i])
    match rng.randrange(5):
        case 0:
            kind = rng.randint(1, 18)
        case 1:
            count = rng.choice((*_EXTREMES, count * 1000, length // 8))
        case 2:
            value = rng.choice((*_EXTREMES, rng.randrange(length)))
        case 3:
            kind, count, value = tiff.RATIONAL, length // 8, 0
        case _:  # many more tags of the same value
            more = range(tag + 1, min(65_535, tag + rng.choice((2, 100, 4000))))
            copies = (struct.pack("<HHII", other, kind, count % 2**32, value) for other in more)
            return [*entries, *copies][:4096]
    entries[i] = struct.pack("<HHII", tag, kind, count % 2**32, value % 2**32)
    return entries


_CHANGES = (_flip, _number, _repeat, _drop, _splice, _swap, _enlarge, _enlarge, _directory, _repeat)
