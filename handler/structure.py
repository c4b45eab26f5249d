"""Structure: estimate the cost of decoding a file from its headers, before any decoder runs.

The limits of time and memory apply to every file. These checks reject, in microseconds, files that would use them up.
They cover what decoders are known to spend time on, and accept every file that programs write for photos.
"""

import math
import struct
from collections.abc import Callable

from handler import boxes, jpeg, png, tiff
from handler.errors import ErrorCode, RequestError

# JPEG: a 10 MB file has at most 160 full segments, a profile at most 255. Pillow joins Exif segments one by one.
_MAX_SEGMENTS, _MAX_EXIF_SEGMENTS = 2000, 256
_MAX_PADDING = 1 << 18  # bytes between segments; Pillow skips them one by one
# Every scan of a progressive JPEG is a pass over the image. Encoders write about ten scans.
MAX_SCANS, MAX_SCANS_AT_MAX_PIXELS = 100, 20
_MAX_CHUNKS = 50_000  # in a PNG; encoders write chunks of 8 kB and more
_MAX_INFLATED = 500  # PNG chunks besides the image data that Pillow decompresses, to up to 1 MB each
_INFLATED = (b"iCCP", b"iTXt", b"zTXt")
_MAX_BLOCKS = 50_000  # in a GIF before its first frame, at most 255 bytes each
_MAX_RUN_LENGTH_PIXELS = 4_000_000  # Pillow decodes run-length encoded BMPs in Python
_MAX_ITEMS = 16_384  # in AVIF or HEIC: 64 million pixels in tiles of 64 × 64; lookups take quadratic time
_MAX_STRIPS = 1 << 16  # in a TIFF
_MAX_FIELDS = 500_000  # numbers in a directory; a 16-bit palette has 196,608
_MAX_OVERLAP = 4  # maximum ratio of the total size of a TIFF's parts to the file size

_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _PLANAR = 256, 257, 259, 277, 284
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_SIZES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _EXTRA_SAMPLES = 258, 262, 339, 338
_LAYOUT = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _SAMPLE_FORMAT, _EXTRA_SAMPLES),
    *(_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_SIZES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES),
}
_EXIF_DIRECTORIES = (34665, 34853, 40965)  # Exif, GPS, interoperability: Pillow reads these directories
_OFFSET_TYPES = (3, 4, 13, 16, 18)
_JPEG_COMPRESSIONS = (6, 7)
_WHOLE_JPEG = (513, 514)  # offset and size of the stream in the TIFFs of before 1995


def check(name: str, content: bytes, max_pixels: int) -> int:
    """Return the number of pixels to decode according to the headers, which may exceed width × height.

    Returns 0 if width × height is the right number. name: the format's name.

    Raises:
        RequestError: too_costly, broken_image.
    """
    try:
        return _CHECKS[name](content, max_pixels) if name in _CHECKS else 0
    except (struct.error, IndexError):
        return 0  # truncated; the decoder reports it


def too_costly(problem: str, fix: str = "save it again with default settings") -> RequestError:
    """Return the error for a file that takes too long to decode. problem: a clause that names the limit."""
    return RequestError(ErrorCode.TOO_COSTLY, f"{problem}; {fix}, or send it as a PNG")


def _check_jpeg(content: bytes, max_pixels: int) -> int:
    exif, padding, scans, pixels, end = [], 0, 0, 0, 2
    for count, segment in enumerate(jpeg.segments(content), 1):
        padding, end = padding + segment.padding, segment.end
        if count > _MAX_SEGMENTS:
            raise too_costly(f"the JPEG has more than {_MAX_SEGMENTS} segments")
        if padding > _MAX_PADDING:
            break
        if segment.marker == jpeg.SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise RequestError(
                    ErrorCode.BROKEN_IMAGE, f"the JPEG has more than {MAX_SCANS} progressive scans; save it again"
                )
        elif segment.marker in jpeg.FRAMES:
            height, width = struct.unpack_from(">HH", content, segment.start + 3)
            pixels = max(pixels, width * height)
        elif segment.marker == jpeg.APP1 and content.startswith(b"Exif\0\0", segment.start + 2):
            exif.append(content[segment.start + 8 : segment.end])
    if padding + (len(content) - end if not scans else 0) > _MAX_PADDING:
        raise RequestError(
            ErrorCode.BROKEN_IMAGE, "the JPEG file has no image data after its headers; send the whole file"
        )
    if scans * pixels > MAX_SCANS_AT_MAX_PIXELS * max_pixels:
        raise too_costly(
            f"the JPEG has {scans} progressive scans of {pixels} pixels each", "save it as a baseline JPEG"
        )
    if len(exif) > _MAX_EXIF_SEGMENTS:
        raise too_costly(f"the JPEG has more than {_MAX_EXIF_SEGMENTS} Exif segments", "save it without them")
    if exif:
        _check_exif(b"".join(exif))
    return scans * pixels // MAX_SCANS_AT_MAX_PIXELS


def _check_exif(content: bytes) -> None:
    try:
        directory = tiff.first_directory(content)
    except tiff.BadDirectory:
        return  # decoders ignore a damaged directory
    _check_directory(directory)


def _check_directory(directory: tiff.Directory) -> None:
    if directory.fields > _MAX_FIELDS or directory.size > _MAX_OVERLAP * max(len(directory.content), 1 << 16):
        raise too_costly("the file's tags contain too many values", "save it without its metadata")


def _check_png(content: bytes, max_pixels: int) -> int:
    inflated = 0
    for count, chunk in enumerate(png.chunks(content)):
        if count >= _MAX_CHUNKS:
            raise too_costly(f"the PNG has more than {_MAX_CHUNKS} chunks")
        inflated += chunk.kind in _INFLATED
        if inflated > _MAX_INFLATED:
            raise too_costly(
                f"the PNG has more than {_MAX_INFLATED} compressed texts and profiles", "save it without them"
            )
    return 0


def _check_gif(content: bytes, max_pixels: int) -> int:
    flags = content[10]
    at = 13 + (3 << ((flags & 7) + 1) if flags & 128 else 0)
    blocks, extension = 0, False
    while blocks <= _MAX_BLOCKS:
        blocks += 1
        if extension:
            extension = content[at] > 0
            at += 1 + content[at]
        elif content[at] == ord("!"):
            extension = True
            at += 2
        else:
            return 0  # the first frame, or the end
    raise too_costly(f"the GIF has more than {_MAX_BLOCKS} blocks before its first frame")


def _check_bmp(content: bytes, max_pixels: int) -> int:
    begin, header, width, height, _, _, compression = struct.unpack_from("<IIiiHHI", content, 10)
    if header < 40 or compression not in (1, 2):
        return 0
    pixels = abs(width * height)
    if pixels > _MAX_RUN_LENGTH_PIXELS:
        raise too_costly(f"the run-length encoded BMP has more than {_MAX_RUN_LENGTH_PIXELS} pixels")
    # Encoders write at most two bytes per pixel and two per row.
    if len(content) - begin > 2 * (pixels + abs(height)) + 4096:
        raise too_costly("the run-length encoded BMP has more runs than pixels")
    return 0


def _check_tiff(content: bytes, max_pixels: int) -> int:
    try:
        main = tiff.first_directory(content)
    except tiff.BadDirectory:
        raise RequestError(
            ErrorCode.BROKEN_IMAGE, "the TIFF file's directory is damaged; send the whole file, or a PNG"
        ) from None
    if main.repeated & _LAYOUT:  # decoders could differ in which value they use
        raise RequestError(ErrorCode.BROKEN_IMAGE, "the TIFF file has contradictory tags; save it again, or as a PNG")
    _check_directory(main)
    for tag in _EXIF_DIRECTORIES:
        for at in (main.numbers(tag) or ())[:1]:
            try:
                _check_directory(tiff.directory(content, at, main.order))
            except tiff.BadDirectory:
                continue
    width, height = main.number(_WIDTH, 0), main.number(_HEIGHT, 0)
    planes = main.number(_SAMPLES, 1) if main.number(_PLANAR, 1) == 2 else 1
    tiled = _TILE_OFFSETS in main.entries and _STRIP_OFFSETS not in main.entries
    across, down, coded = _tiles(main, width, height) if tiled else _strips(main, width, height)
    parts = across * down * planes
    _check_parts(main, _TILE_OFFSETS if tiled else _STRIP_OFFSETS, _TILE_SIZES if tiled else _STRIP_SIZES, parts)
    if main.number(_COMPRESSION, 1) in _JPEG_COMPRESSIONS:
        _check_scans(main, parts, tiled)
    return coded


def _check_scans(main: tiff.Directory, parts: int, tiled: bool) -> None:
    """Check the number of scans in a TIFF's parts that are JPEG streams."""
    scans, count = 0, 0
    tags = (_TILE_OFFSETS, _TILE_SIZES) if tiled else (_STRIP_OFFSETS, _STRIP_SIZES)
    for offsets, sizes in ((main.numbers(a), main.numbers(b)) for a, b in (tags, _WHOLE_JPEG)):
        if offsets and not all(sizes or (0,)):  # decoders read on, to wherever they find an end
            scans += main.content.count(b"\xff\xda")
        for start, size in zip(offsets or (), sizes or (), strict=False):
            for segment in jpeg.segments(main.content, start, start + size):
                count, scans = count + 1, scans + (segment.marker == jpeg.SOS)
                if count > 16 * parts + _MAX_SEGMENTS:
                    raise too_costly("the TIFF's JPEG parts have too many segments")
    if scans > 4 * parts + MAX_SCANS_AT_MAX_PIXELS:
        raise too_costly("the TIFF's JPEG parts have too many scans")


def _tiles(main: tiff.Directory, width: int, height: int) -> tuple[int, int, int]:
    across_tile, down_tile = main.number(_TILE_WIDTH, 0), main.number(_TILE_HEIGHT, 0)
    if across_tile < 1 or down_tile < 1:
        raise RequestError(ErrorCode.BROKEN_IMAGE, "the TIFF's tiles have no size; save it again, or as a PNG")
    across, down = math.ceil(width / across_tile), math.ceil(height / down_tile)
    return across, down, across * across_tile * down * down_tile


def _strips(main: tiff.Directory, width: int, height: int) -> tuple[int, int, int]:
    rows = min(main.number(_ROWS_PER_STRIP, height), height)
    return 1, math.ceil(height / max(rows, 1)), width * height


def _check_parts(main: tiff.Directory, offsets_tag: int, sizes_tag: int, parts: int) -> None:
    """Check that strips or tiles do not overlap, and that their number fits the image."""
    offsets = main.entries.get(offsets_tag)
    if offsets is not None and offsets.type not in _OFFSET_TYPES:
        raise RequestError(
            ErrorCode.BROKEN_IMAGE, "the TIFF's offsets are not whole numbers; save it again, or as a PNG"
        )
    if offsets is not None and offsets.count > min(2 * parts + 16, _MAX_STRIPS):
        raise too_costly(f"the TIFF is cut into {offsets.count} parts, more than {min(parts, _MAX_STRIPS)}")
    # If a part extends beyond the end of the file, the file is truncated; the decoder reports it.
    length = len(main.content)
    if sum(min(size, length) for size in main.numbers(sizes_tag) or ()) > _MAX_OVERLAP * length:
        raise too_costly("the TIFF's parts overlap: their total size exceeds the file size")


def _check_webp(content: bytes, max_pixels: int) -> int:
    # Pillow's decoder allocates the whole canvas before its size can be checked.
    kind = content[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and content[23:26] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        return 0  # damaged; the decoder reports it
    return width * height


def _check_items(content: bytes, max_pixels: int) -> int:
    """Check the number of items. Source: ISO/IEC 14496-12, item locations, 8.11.3."""
    for at, _ in boxes.inside(content, (0, len(content)), b"meta", b"iloc"):
        (items,) = struct.unpack_from(">H" if content[at] < 2 else ">I", content, at + 6)
        if items > _MAX_ITEMS:
            raise too_costly(f"the file has more than {_MAX_ITEMS} items")
    return 0


_CHECKS: dict[str, Callable[[bytes, int], int]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "GIF": _check_gif,
    "BMP": _check_bmp,
    "TIFF": _check_tiff,
    "WEBP": _check_webp,
    "AVIF": _check_items,
    "HEIC": _check_items,
}
