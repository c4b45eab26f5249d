"""JPEG: huge numbers of segments and scans, and images with missing data, which decoders fill in."""

import math
import struct
from collections.abc import Sequence

from PIL import Image

from densenet.fuzz.files import FULL, saved

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
BASELINE, PROGRESSIVE, LOSSLESS, ARITHMETIC, ARITHMETIC_PROGRESSIVE = 0xC0, 0xC2, 0xC3, 0xC9, 0xCA
HUFFMAN_TABLE, START_OF_SCAN, QUANTIZATION, RESTART_INTERVAL = 0xC4, 0xDA, 0xDB, 0xDD
APP0, APP1, APP2, APP13, COMMENT = 0xE0, 0xE1, 0xE2, 0xED, 0xFE
_ONE_CODE = bytes([1, *[0] * 15])  # a Huffman table of a single code, the bit 0
_MAX_PAYLOAD = 65_533  # bytes of a segment's payload
MAX_SCANS = 98  # below the 100 that the service's own limit allows


def segment(marker: int, payload: bytes = b"") -> bytes:
    """Build a segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def small(mode: str = "RGB", **options: object) -> bytes:
    """Build an image of 16 × 16 pixels."""
    return saved(Image.new(mode, (16, 16)), "JPEG", **options)


def with_head(head: bytes) -> bytes:
    """Build a small image with bytes inserted after its first marker."""
    plain = small()
    return plain[:2] + head + plain[2:]


def filled(*segments: bytes) -> bytes:
    """Build a small image with repeated segments."""
    together = b"".join(segments)
    return with_head(together * (FULL // len(together)))


def frame(width: int, height: int, *, kind: int = BASELINE, sampling: Sequence[int] = (0x11,)) -> bytes:
    """Build the frame header. sampling: horizontal and vertical factors of each component."""
    components = b"".join(bytes([i, factors, 0]) for i, factors in enumerate(sampling, 1))
    return segment(kind, struct.pack(">BHHB", 8, height, width, len(sampling)) + components)


def scan(components: Sequence[int], first: int, last: int, bits: int = 0) -> bytes:
    """Build a scan header. first, last: of the 64 coefficients. bits: successive approximation, high and low."""
    head = bytes([len(components), *(byte for i in components for byte in (i, 0)), first, last, bits])
    return segment(START_OF_SCAN, head)


def tables(ac_symbol: int = 0) -> bytes:
    """Build a quantisation table, and Huffman tables of one code for DC (no difference) and AC."""
    return (
        segment(QUANTIZATION, b"\0" + b"\1" * 64)
        + segment(HUFFMAN_TABLE, b"\0" + _ONE_CODE + b"\0")
        + segment(HUFFMAN_TABLE, b"\x10" + _ONE_CODE + bytes([ac_symbol]))
    )


def without_data(
    width: int = 8000, height: int = 8000, *, kind: int = BASELINE, sampling: Sequence[int] = (0x11,)
) -> bytes:
    """Build an image whose only scan is empty; decoders warn and use zeros."""
    everything = range(1, len(sampling) + 1)
    last = 0 if kind in (PROGRESSIVE, LOSSLESS, ARITHMETIC_PROGRESSIVE) else 63
    first = 1 if kind == LOSSLESS else 0  # in a lossless JPEG this field is the predictor
    return SOI + tables() + frame(width, height, kind=kind, sampling=sampling) + scan(everything, first, last) + EOI


def scans_without_data(kind: int, sampling: Sequence[int], *, width: int = 8000, height: int = 8000) -> bytes:
    """Build a progressive image with the maximum number of empty scans."""
    components = range(1, len(sampling) + 1)
    passes = [scan([i], 1, 63, bits) for bits in (1, 0x10, *[0x10] * MAX_SCANS) for i in components]
    head = SOI + tables() + frame(width, height, kind=kind, sampling=sampling) + scan(components, 0, 0)
    return head + b"".join(passes[: MAX_SCANS - 1]) + EOI


def _bits(text: str) -> bytes:
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")


def _end_of_band_runs(blocks: int) -> bytes:
    """Build Huffman data that marks all blocks as empty, 32,767 at a time (symbol E0)."""
    runs = []
    while blocks >= 1 << 14:
        length = min(blocks, (1 << 15) - 1)
        runs.append(f"0{length - (1 << 14):014b}")
        blocks -= length
    return _bits("".join(runs) + ("0" + "0" * 14 if blocks else ""))


def end_of_band_scans(width: int = 8000, height: int = 8000, scans: int = MAX_SCANS) -> bytes:
    """Build a progressive image with many scans of almost no data."""
    blocks = math.ceil(width / 8) * math.ceil(height / 8)
    nothing = _end_of_band_runs(blocks)
    head = SOI + tables(ac_symbol=0xE0) + frame(width, height, kind=PROGRESSIVE)
    drawn = scan([1], 0, 0) + bytes(math.ceil(blocks / 8)) + scan([1], 1, 63, 1) + nothing
    return head + drawn + (scan([1], 1, 63, 0x10) + nothing) * (scans - 2) + EOI


def without_end(width: int = 8000, height: int = 8000) -> bytes:
    """Build a progressive image without its end marker, which is decoded three times."""
    return end_of_band_scans(width, height, scans=10)[: -len(EOI)]


def shared_scans_strip(side: int = 512) -> bytes:
    """Build end-of-band scans as a small stream for a TIFF's strips."""
    return end_of_band_scans(side, side)


def restarts(width: int = 8000, height: int = 8000) -> bytes:
    """Build an image with a restart marker after every block."""
    blocks = math.ceil(width / 8) * math.ceil(height / 8)
    eight = b"".join(b"\x3f\xff" + bytes([0xD0 + i]) for i in range(8))
    head = SOI + tables() + segment(RESTART_INTERVAL, b"\0\1") + frame(width, height) + scan([1], 0, 63)
    return head + eight * (blocks // 8) + EOI


def missing_restarts(width: int = 8000, height: int = 8000) -> bytes:
    """Build an image that declares a restart marker after every block but has none."""
    return SOI + tables() + segment(RESTART_INTERVAL, b"\0\1") + frame(width, height) + scan([1], 0, 63) + EOI


def uneven_sampling(width: int = 8000, height: int = 8000) -> bytes:
    """Build an image with components whose size ratio is not an integer."""
    return without_data(width, height, sampling=(0x13, 0x21, 0x12))


def narrow(kind: int = BASELINE) -> bytes:
    """Build an image that is too narrow for decoding at a reduced scale."""
    return without_data(65_000, 984, kind=kind, sampling=(0x11, 0x11, 0x11))


def many_exif_segments(payload: int = 8) -> bytes:
    """Build an image with many EXIF segments, which Pillow joins one by one."""
    return filled(segment(APP1, b"Exif\0\0" + bytes(payload)))


def many_comments() -> bytes:
    """Build an image with 2.2 million empty comments."""
    return filled(segment(COMMENT))


def many_app_segments() -> bytes:
    """Build an image with many empty application segments."""
    return filled(segment(APP0))


def many_profiles() -> bytes:
    """Build an image with many profile segments, fewer than they declare."""
    return filled(segment(APP2, b"ICC_PROFILE\0\1\xff"))


def many_quantization_tables() -> bytes:
    """Build an image with many quantisation tables, each replacing the previous one."""
    return filled(segment(QUANTIZATION, b"\0" + b"\1" * 64))


def many_huffman_tables() -> bytes:
    """Build an image with many Huffman tables, each replacing the previous one."""
    return filled(segment(HUFFMAN_TABLE, b"\0" + _ONE_CODE + b"\0"))


def many_frames() -> bytes:
    """Build an image with as many frame headers as fit."""
    return filled(segment(BASELINE, struct.pack(">BHHB", 8, 16, 16, 3) + b"\1\x11\0" * 20_000))


def many_photoshop_resources() -> bytes:
    """Build an image with Photoshop segments full of empty resources."""
    resource = b"8BIM" + bytes(8)
    capacity = (_MAX_PAYLOAD - 14) // len(resource)
    return filled(segment(APP13, b"Photoshop 3.0\0" + resource * capacity))


def many_scan_headers() -> bytes:
    """Build a baseline image with many empty scans."""
    plain = small("L")
    return plain[:-2] + scan([1], 0, 63) * (FULL // 10) + EOI


def many_restart_markers() -> bytes:
    """Build an image with many markers without a length between the segments."""
    return filled(b"\xff\xd0")


def padding() -> bytes:
    """Build an image with many fill bytes before a marker."""
    return filled(b"\xff")


def junk() -> bytes:
    """Build an image with bytes between segments that belong to none."""
    return with_head(b"\xff\0" + b"\1" * FULL)


def stuffed() -> bytes:
    """Build an image whose data continues after its last block."""
    return small()[:-2] + b"\1" * FULL + EOI


def with_exif(block: bytes) -> bytes:
    """Build a small image with an EXIF block of any length, split into segments."""
    capacity = _MAX_PAYLOAD - 6
    pieces = (block[at : at + capacity] for at in range(0, len(block), capacity))
    return with_head(b"".join(segment(APP1, b"Exif\0\0" + piece) for piece in pieces))


def with_profile(profile: bytes, mode: str = "CMYK", size: tuple[int, int] = (16, 16)) -> bytes:
    """Build an image of one colour with a profile."""
    return saved(Image.new(mode, size), "JPEG", icc_profile=profile)


def multi_picture(index: bytes) -> bytes:
    """Build an image with an index of further images."""
    return with_head(segment(APP2, b"MPF\0" + index))
