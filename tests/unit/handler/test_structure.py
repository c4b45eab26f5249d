"""What headers say about cost: files known to be dear are refused before a decoder runs, odd ones are answered."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from handler import decoding, structure
from handler.errors import ErrorCode, RequestError
from tests.photos import cutouts, encode

PHOTO = cutouts(1)[0].resize((96, 64))
LIMIT = 64_000_000


def refused(content: bytes, max_pixels: int = LIMIT) -> RequestError:
    name = decoding.identify(content)
    assert name is not None
    with pytest.raises(RequestError) as raised:
        structure.check(name, content, max_pixels)
    return raised.value


def decoded(content: bytes) -> Image.Image:
    return decoding.decode(content, max_pixels=LIMIT)


def as_pillow(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB").tobytes()


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg(*segments: bytes, behind: bytes = b"", **options: Any) -> bytes:
    content = encode(PHOTO, "JPEG", **options)
    return content[:2] + b"".join(segments) + content[2:] + behind


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    content = encode(PHOTO, "PNG")
    return content[:33] + b"".join(chunks) + content[33:]


def exif(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """A block with one tag, whose values stand behind it."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, tag, kind, count, 26) + b"\0\0\0\0" + value


def bmp(width: int, height: int, runs: bytes, depth: int = 8) -> bytes:
    palette = b"\0\0\0\0" * (2 if depth == 8 else 16)
    begin = 54 + len(palette)
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, depth, 1 if depth == 8 else 2, len(runs), 0, 0, len(palette) // 4, 0
    )
    return b"BM" + struct.pack("<IHHI", begin + len(runs), 0, 0, begin) + header + palette + runs


def tiff(*tags: tuple[int, int, int, int | bytes]) -> bytes:
    """Tag, type, count, value; bytes of more than four stand behind the directory."""
    at = 8 + 2 + 12 * len(tags) + 4
    entries, behind = b"", b""
    for tag, kind, count, value in sorted(tags, key=lambda entry: entry[0]):
        field = struct.pack("<I", value) if isinstance(value, int) else value.ljust(4, b"\0")
        if len(field) > 4:
            field, behind = struct.pack("<I", at + len(behind)), behind + field
        entries += struct.pack("<HHI", tag, kind, count) + field
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + behind


def grey(width: int, height: int, *tags: tuple[int, int, int, int | bytes]) -> bytes:
    base = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    return tiff(*(one for one in base if one[0] not in [tag[0] for tag in tags]), *tags)


SCANS = b"\xff\xd8" + b"\xff\xda\0\2" * 30


def jpeg_tiff(*sizes: tuple[int, int, int, int | bytes]) -> bytes:
    """One strip of JPEG with thirty scans, behind the directory."""
    tags = ((259, 3, 1, 7), (278, 3, 1, 8), *sizes)
    return grey(8, 8, (273, 4, 1, len(grey(8, 8, (273, 4, 1, 0), *tags))), *tags) + SCANS


def numbers(count: int, value: int) -> bytes:
    return struct.pack("<I", value) * count


class TestRefused:
    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(jpeg(*[segment(0xE1, b"Exif\0\0" + bytes(8))] * 257), id="exif segments"),
            pytest.param(jpeg(*[b"\xff\xfe\0\2"] * 2001), id="empty comments"),
            pytest.param(jpeg(*[b"\xff\xd0"] * 2001), id="restart markers"),
            pytest.param(jpeg(segment(0xE1, b"Exif\0\0" + exif(282, 5, 600_000, b""))), id="rationals in a jpeg"),
            pytest.param(png(*[chunk(b"prVt")] * 50_001), id="chunks"),
            pytest.param(png(*[chunk(b"zTXt", b"\0\0" + zlib.compress(bytes(1000)))] * 501), id="compressed texts"),
            pytest.param(b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\0" * 50_001, id="gif comments"),
            pytest.param(b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe" + b"\1x" * 50_001, id="gif comment blocks"),
            pytest.param(bmp(64_000_000, 1, b"\1\0\0\0\0\1"), id="run lengths of many pixels"),
            pytest.param(bmp(8, 8, b"\x08\0" + b"\1\0" * 5000), id="runs that add nothing"),
            pytest.param(grey(8, 8, (273, 4, 100, numbers(100, 8)), (278, 3, 1, 8)), id="strips without rows"),
            pytest.param(
                grey(
                    *(48_000, 16, (322, 4, 1, 16), (323, 4, 1, 16)),
                    *((324, 4, 3000, numbers(3000, 200)), (325, 4, 3000, numbers(3000, 20_000))),
                ),
                id="tiles of one blob",
            ),
            pytest.param(grey(8, 8, (700, 1, 9_000_000, 0), (701, 1, 9_000_000, 0)), id="tags longer than the file"),
            pytest.param(grey(8, 8, (339, 5, 600_000, 0)), id="rationals that a tiff claims"),
            pytest.param(jpeg_tiff((279, 4, 1, len(SCANS))), id="scans of a tiff"),
            pytest.param(jpeg_tiff((279, 4, 1, 0)), id="scans of a tiff without a size"),
            pytest.param(jpeg_tiff(), id="scans of a tiff without sizes"),
        ],
    )
    def test_as_too_costly(self, content: bytes) -> None:
        assert refused(content).code is ErrorCode.TOO_COSTLY

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"\xff\xd8" + bytes(300_000), id="nothing after the start"),
            pytest.param(b"\xff\xd8" + b"\xff" * 300_000, id="padding alone"),
            pytest.param(grey(8, 8, (273, 1, 1000, b"\x08" * 1000), (278, 3, 1, 8)), id="offsets of bytes"),
            pytest.param(grey(8, 8, (273, 5, 1, bytes(8)), (278, 3, 1, 8)), id="offsets that are fractions"),
            pytest.param(grey(8, 8, (322, 4, 1, 0), (323, 4, 1, 16), (324, 4, 1, 8)), id="tiles without width"),
            pytest.param(b"II*\0\xff\xff\xff\xff" + bytes(50), id="a directory behind the end"),
            pytest.param(tiff((256, 4, 1, 8), (256, 4, 1, 80_000), (257, 4, 1, 8)), id="two widths"),
        ],
    )
    def test_as_broken(self, content: bytes) -> None:
        assert refused(content).code is ErrorCode.BROKEN_IMAGE

    def test_scans_of_many_pixels(self) -> None:
        content = encode(PHOTO, "JPEG", progressive=True)
        scans = content.count(b"\xff\xda")
        pixels = PHOTO.width * PHOTO.height
        assert structure.check("JPEG", content, scans * pixels // 20 + 1) == scans * pixels // 20
        assert refused(content, scans * pixels // 20 - 1).code is ErrorCode.TOO_COSTLY

    def test_items_of_an_avif(self) -> None:
        def box(kind: bytes, payload: bytes) -> bytes:
            return struct.pack(">I", len(payload) + 8) + kind + payload

        located = box(b"iloc", b"\2\0\0\0" + b"\0\0" + struct.pack(">I", 16_385) + bytes(100))
        head = box(b"ftyp", b"avif\0\0\0\0avif")
        assert refused(head + box(b"meta", bytes(4) + located)).code is ErrorCode.TOO_COSTLY


class TestPixels:
    def test_of_a_tile_larger_than_the_image_count(self) -> None:
        content = grey(1, 1, (322, 4, 1, 43_008), (323, 4, 1, 43_008), (324, 4, 1, 8), (325, 4, 1, 10))
        assert structure.check("TIFF", content, LIMIT) == 43_008**2
        with pytest.raises(RequestError) as raised:
            decoding.decode(content, max_pixels=LIMIT)
        assert raised.value.code is ErrorCode.TOO_MANY_PIXELS

    @pytest.mark.parametrize(
        "options", [{}, {"lossless": True}, {"save_all": True, "append_images": [PHOTO.rotate(90)]}]
    )
    def test_of_a_webp_are_known_before_it_is_opened(self, options: dict[str, Any]) -> None:
        assert structure.check("WEBP", encode(PHOTO, "WEBP", **options), LIMIT) == PHOTO.width * PHOTO.height

    def test_of_a_webp_of_an_alpha_channel(self) -> None:
        content = encode(Image.new("RGBA", (30, 20), (1, 2, 3, 4)), "WEBP")
        assert structure.check("WEBP", content, LIMIT) == 600


class TestAnswered:
    """Files that are odd and sound."""

    def test_a_jpeg_with_a_film_behind_it(self) -> None:
        film = random.Random(4).randbytes(9_000_000)
        assert film.count(b"\xff\xda") > structure.MAX_SCANS
        assert decoded(jpeg(behind=film)).tobytes() == as_pillow(jpeg())

    def test_a_jpeg_with_a_long_xmp_and_a_large_profile(self) -> None:
        segments = [segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000))] * 100
        segments += [segment(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, 255]) + bytes(60)) for i in range(255)]
        assert decoded(jpeg(*segments)).tobytes() == as_pillow(jpeg())

    def test_a_jpeg_with_padding_between_its_segments(self) -> None:
        assert decoded(jpeg(b"\xff" * 4000, segment(0xFE, b"hello"))).tobytes() == as_pillow(jpeg())

    def test_a_thumbnail_within_a_jpeg_is_no_scan_of_it(self) -> None:
        thumbnail = encode(PHOTO.resize((32, 32)), "JPEG", progressive=True)
        content = jpeg(*[segment(0xED, b"thumb" + thumbnail)] * 30)
        assert decoded(content).tobytes() == as_pillow(jpeg())

    def test_a_progressive_jpeg_of_restarts(self) -> None:
        content = encode(PHOTO, "JPEG", progressive=True, restart_marker_blocks=1)
        assert decoded(content).tobytes() == as_pillow(content)

    @pytest.mark.parametrize("rows", [1, 3, 64, 1000])
    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_a_tiff_in_strips(self, rows: int, compression: str | None) -> None:
        pixels = np.asarray(PHOTO)
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, rowsperstrip=rows, compression=compression, photometric="rgb")
        assert np.array_equal(np.asarray(decoded(buffer.getvalue())), pixels)

    @pytest.mark.parametrize("planes", ["contig", "separate"])
    def test_a_small_tiff_in_large_tiles(self, planes: str) -> None:
        pixels = np.asarray(PHOTO)
        source = pixels if planes == "contig" else pixels.transpose(2, 0, 1)
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, source, tile=(512, 512), compression="zlib", photometric="rgb", planarconfig=planes)
        assert np.array_equal(np.asarray(decoded(buffer.getvalue())), pixels)

    def test_a_tiff_of_jpeg_strips_with_other_data(self) -> None:
        content = encode(PHOTO, "TIFF", compression="jpeg", quality=100)
        other = random.Random(5).randbytes(9_000_000)
        assert other.count(b"\xff\xda") > 4 + structure.MAX_SCANS_AT_MAX_PIXELS
        assert decoded(content + other).tobytes() == decoded(content).tobytes()

    def test_a_big_tiff(self) -> None:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.asarray(PHOTO), bigtiff=True, photometric="rgb", compression="zlib", rowsperstrip=2)
        assert decoded(buffer.getvalue()).tobytes() == PHOTO.tobytes()

    def test_a_tiff_of_many_pages(self) -> None:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.stack([np.asarray(PHOTO)] * 50), photometric="rgb")
        assert decoded(buffer.getvalue()).tobytes() == PHOTO.tobytes()

    def test_a_png_of_many_small_chunks(self) -> None:
        data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(PHOTO)))
        pieces = b"".join(chunk(b"IDAT", data[i : i + 1]) for i in range(len(data)))
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", *PHOTO.size, 8, 2, 0, 0, 0))
        content = b"\x89PNG\r\n\x1a\n" + header + pieces + chunk(b"IEND")
        assert decoded(content).tobytes() == PHOTO.tobytes()

    def test_a_run_length_encoded_screenshot(self) -> None:
        width, height = 1920, 1080
        row = b"".join(b"\xff\1" for _ in range(width // 255)) + bytes([width % 255, 1]) + b"\0\0"
        content = bmp(width, height, row * height + b"\0\1")
        assert decoded(content).size == (width, height)

    def test_exif_that_claims_much_where_it_is_not_read(self) -> None:
        """A PNG's block holds its one tag, and a camera's notes are bytes."""
        block = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + struct.pack("<HHII", 274, 3, 1, 6)
        block += struct.pack("<HHII", 282, 5, 1_000_000, 38) + b"\0\0\0\0" + bytes(8_000_000)
        assert decoded(png(chunk(b"eXIf", block))).size == (PHOTO.height, PHOTO.width)
        noted = segment(0xE1, b"Exif\0\0" + exif(37500, 7, 60_000, bytes(60_000)))
        assert decoded(jpeg(noted)).tobytes() == as_pillow(jpeg())
