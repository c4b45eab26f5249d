"""Pictures drawn by numpy, stored in every way a file may hold them, and expected back upright, RGB and over white."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
import tifffile
from PIL import Image

from export import ROOT
from handler import cropping, decoding
from handler.errors import ErrorCode, RequestError
from tests.photos import cutouts, encode, photos

Pixels = npt.NDArray[np.generic]

ORIENTATION = 0x0112  # the EXIF tag
ANIMATED = {"save_all": True, "duration": 100}


def decoded(content: bytes) -> Pixels:
    image = decoding.decode(content, max_pixels=64_000_000)
    assert image.mode == "RGB"
    return np.asarray(image, dtype=np.int64)


def refusal(content: bytes, max_pixels: int = 64_000_000) -> RequestError:
    with pytest.raises(RequestError) as raised:
        decoding.decode(content, max_pixels=max_pixels)
    return raised.value


def stored(pixels: Pixels, file_format: str, mode: str | None = None, **options: object) -> bytes:
    array = np.ascontiguousarray(pixels.astype(np.uint8))
    image = Image.fromarray(array)
    if mode and mode != image.mode:
        image = Image.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())
    return encode(image, file_format, **options)


def tiff(pixels: Pixels, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, kind: int, raw: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG made by hand; raw: the scan lines, each with its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), *extra, (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def assert_near(found: Pixels, expected: Pixels, tolerance: float) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected.astype(np.float64), rtol=0, atol=tolerance)


@pytest.fixture
def picture() -> Pixels:
    """48 rows, 64 columns, white but for three corners of different colours: no turn or mirror maps it to itself."""
    pixels = np.full((48, 64, 3), 255)
    pixels[:16, :16] = 255, 0, 0
    pixels[:16, 48:] = 0, 255, 0
    pixels[32:, :16] = 0, 0, 255
    return pixels


@pytest.fixture
def noise() -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (12, 20, 3))


@pytest.fixture
def grey16() -> Pixels:
    """Every 16-bit value there is."""
    return np.arange(65536, dtype=np.uint16).reshape(128, 512)


# How the camera laid down the upright picture, by EXIF orientation (the EXIF specification's table).
LAID_DOWN: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright.transpose(1, 0, 2), 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", LAID_DOWN)
@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 4),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 12),
    ],
)
def test_a_picture_comes_out_upright(
    picture: Pixels, orientation: int, file_format: str, options: dict[str, object], tolerance: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = stored(LAID_DOWN[orientation](picture), file_format, exif=exif, **options)
    assert_near(decoded(content), picture, tolerance)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(noise: Pixels, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert_near(decoded(stored(noise, "PNG", exif=exif)), noise, 0)


@pytest.mark.parametrize("block", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0"])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_a_picture_with_damaged_exif_is_accepted_as_it_is(noise: Pixels, file_format: str, block: bytes) -> None:
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    assert_near(decoded(stored(noise, file_format, exif=block, **lossless)), noise, 0)


def test_a_jpeg_with_damaged_exif_is_accepted_as_it_is() -> None:
    photo = photos()[1]
    content = encode(photo, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert_near(decoded(content), np.asarray(Image.open(io.BytesIO(encode(photo)))), 0)


def over_white(colour: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None] / 255
    return np.round(colour * share + 255 * (1 - share))


@pytest.fixture
def alpha() -> Pixels:
    """From see-through to opaque, both ends included."""
    return np.linspace(0, 255, 12 * 20).round().astype(np.int64).reshape(12, 20)


@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_lzw"})]
)
def test_transparency_in_colour_is_laid_over_white(
    noise: Pixels, alpha: Pixels, file_format: str, options: dict[str, object]
) -> None:
    content = stored(np.dstack([noise, alpha]), file_format, **options)
    assert_near(decoded(content), over_white(noise, alpha), 1)


def test_transparency_in_grey_is_laid_over_white(noise: Pixels, alpha: Pixels) -> None:
    grey = noise[..., :1].repeat(3, axis=2)
    content = stored(np.dstack([noise[..., 0], alpha]), "PNG", mode="LA")
    assert_near(decoded(content), over_white(grey, alpha), 1)


def palette_image(indices: Pixels, palette: Pixels) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image


@pytest.fixture
def palette() -> Pixels:
    return np.random.default_rng(2).integers(0, 200, (16, 3))


@pytest.fixture
def indices() -> Pixels:
    return np.random.default_rng(3).integers(0, 16, (12, 20))


def test_palette_colours_with_an_alpha_each_are_laid_over_white(indices: Pixels, palette: Pixels) -> None:
    alphas = np.arange(16) * 17
    content = encode(palette_image(indices, palette), "PNG", transparency=alphas.astype(np.uint8).tobytes())
    assert_near(decoded(content), over_white(palette[indices], alphas[indices]), 1)


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_transparent_palette_index_becomes_white(indices: Pixels, palette: Pixels, file_format: str) -> None:
    content = encode(palette_image(indices, palette), file_format, transparency=5)
    expected = palette[indices]
    expected[indices == 5] = 255
    assert_near(decoded(content), expected, 0)


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_is_looked_up(indices: Pixels, palette: Pixels, file_format: str) -> None:
    assert_near(decoded(encode(palette_image(indices, palette), file_format)), palette[indices], 0)


def test_a_colour_declared_transparent_becomes_white(picture: Pixels) -> None:
    expected = picture.copy()
    expected[:16, 48:] = 255
    assert_near(decoded(stored(picture, "PNG", transparency=(0, 255, 0))), expected, 0)


def test_a_grey_declared_transparent_becomes_white(noise: Pixels) -> None:
    grey = noise[..., 0] // 16
    expected = np.where(grey == 3, 255, grey)[..., None].repeat(3, axis=2)
    assert_near(decoded(stored(grey, "PNG", transparency=3)), expected, 0)


@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("TIFF", {}), ("BMP", {}), ("GIF", {}), ("WEBP", {"lossless": True})]
)
def test_grey_becomes_three_equal_channels(noise: Pixels, file_format: str, options: dict[str, object]) -> None:
    grey = noise[..., 0]
    assert_near(decoded(stored(grey, file_format, **options)), np.dstack([grey] * 3), 0)


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"})])
def test_one_bit_becomes_black_and_white(noise: Pixels, file_format: str, options: dict[str, object]) -> None:
    white = noise[..., 0] > 127
    content = encode(Image.fromarray(white), file_format, **options)
    assert_near(decoded(content), np.where(white, 255, 0)[..., None].repeat(3, axis=2), 0)


def test_a_tiff_that_counts_from_white_is_turned_round(noise: Pixels) -> None:
    grey = noise[..., 0].astype(np.uint8)
    assert_near(decoded(tiff(grey, photometric="miniswhite")), 255 - np.dstack([grey] * 3).astype(np.int64), 0)


def grey16_png(values: Pixels) -> bytes:
    return encode(Image.fromarray(values.astype(np.uint16)), "PNG")


def grey16_tiff(values: Pixels) -> bytes:
    return tiff(values, photometric="minisblack", byteorder="<")


def grey16_big_endian_tiff(values: Pixels) -> bytes:
    return tiff(values, photometric="minisblack", byteorder=">")


@pytest.mark.parametrize("write", [grey16_png, grey16_tiff, grey16_big_endian_tiff])
def test_16_bit_grey_is_scaled_to_8_bit(grey16: Pixels, write: Callable[[Pixels], bytes]) -> None:
    found = decoded(write(grey16))
    assert (found < 250).mean() > 0.9  # not clipped to white
    assert_near(found, np.dstack([np.round(grey16 / 257)] * 3), 0)


def test_16_bit_grey_that_counts_from_white_is_turned_round(grey16: Pixels) -> None:
    found = decoded(tiff(grey16, photometric="miniswhite"))
    assert_near(found, np.dstack([np.round((65535 - grey16.astype(np.int64)) / 257)] * 3), 1)


def rgb16_png(values: Pixels, *extra: tuple[bytes, bytes]) -> bytes:
    raw = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    return png(values.shape[1], values.shape[0], 16, 2, raw, *extra)


def rgb16_tiff(values: Pixels) -> bytes:
    return tiff(values.astype(np.uint16), photometric="rgb")


@pytest.mark.parametrize("write", [rgb16_png, rgb16_tiff])
def test_16_bit_colour_is_scaled_to_8_bit(write: Callable[[Pixels], bytes]) -> None:
    values = np.random.default_rng(4).integers(0, 65536, (12, 20, 3))
    assert_near(decoded(write(values)), np.round(values / 257), 1)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("low", "high", "kind"), [(0.0, 1.0, "f4"), (-3.5, 900.25, "f4"), (0, 40, "i4"), (-2_000_000, 7_000_000, "i4")]
)
def test_wide_values_are_stretched_from_black_to_white(low: float, high: float, kind: str, byteorder: str) -> None:
    values = np.linspace(low, high, 12 * 20).reshape(12, 20).astype(kind)
    expected = (values.astype(np.float64) - low) / (high - low) * 255
    assert_near(decoded(tiff(values, byteorder=byteorder)), np.dstack([expected] * 3), 1)


INKS = np.array(
    [
        [0, 0, 0, 0],
        [255, 0, 0, 0],
        [0, 255, 0, 0],
        [0, 0, 255, 0],
        [0, 0, 0, 255],
        [30, 90, 160, 40],
        [200, 10, 60, 120],
    ]
)  # cyan, magenta, yellow, black; 255 is full ink


def patches(colours: Pixels) -> Pixels:
    """Flat squares of 16 pixels beside each other, so that a JPEG keeps the colours."""
    return np.repeat(np.repeat(colours[None], 16, axis=0), 16, axis=1)


def printed(inks: Pixels) -> Pixels:
    return 255 * (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255)


def cmyk(inks: Pixels, file_format: str, **options: object) -> bytes:
    return stored(patches(inks), file_format, mode="CMYK", **options)


def adobe_marker(jpeg: bytes) -> slice:
    start = jpeg.index(b"\xff\xee\0\x0eAdobe")
    return slice(start, start + 16)


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"), [("JPEG", {"quality": 100}, 3), ("TIFF", {}, 1)], ids=["JPEG", "TIFF"]
)
def test_inks_are_laid_on_white_paper(file_format: str, options: dict[str, object], tolerance: int) -> None:
    assert_near(decoded(cmyk(INKS, file_format, **options)), printed(patches(INKS)), tolerance)


def without(content: bytes, part: slice) -> bytes:
    return content[: part.start] + content[part.stop :]


def test_inks_of_a_jpeg_without_adobes_marker_are_inverted_too() -> None:
    content = cmyk(INKS, "JPEG", quality=100)
    content = without(content, adobe_marker(content))
    assert_near(decoded(content), printed(patches(INKS)), 3)


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("size", [(1221, 1401), (1220, 1400), (300, 400)])
def test_inks_of_a_jpeg_look_the_same_at_every_size(size: tuple[int, int], marked: bool) -> None:
    # The first two are decoded at a half, which does not divide the sides of the first one.
    content = stored(np.full((*size, 4), INKS[1], np.uint8), "JPEG", mode="CMYK", quality=100)
    content = content if marked else without(content, adobe_marker(content))
    small = np.asarray(decoding.decode(content, max_pixels=64_000_000, min_side=510))
    assert small.shape[0] == (size[0] if size[0] < 1020 else -(-size[0] // 2))
    assert_near(small, printed(np.full((*small.shape[:2], 4), INKS[1], np.uint8)), 3)


def test_inks_stored_as_luma_and_chroma_are_understood() -> None:
    red, green, blue, black = (INKS[:, ink].astype(np.float64) for ink in range(4))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # JFIF's formulas, of ink in the place of light
    chroma = [128 + 0.564 * (blue - luma), 128 + 0.713 * (red - luma)]
    planes = np.stack([luma, *chroma, 255 - black], axis=-1).round().clip(0, 255)
    content = bytearray(cmyk(255 - planes, "JPEG", quality=100, subsampling=0))
    assert content[adobe_marker(bytes(content)).stop - 1] == 0
    content[adobe_marker(bytes(content)).stop - 1] = 2
    assert_near(decoded(bytes(content)), printed(patches(INKS)), 5)


@pytest.mark.parametrize("profile", [b"garbage", b"\0" * 200, b"acsp" * 100])
def test_a_garbage_ink_profile_is_left_aside(profile: bytes) -> None:
    content = cmyk(INKS, "JPEG", quality=100, icc_profile=profile)
    assert_near(decoded(content), printed(patches(INKS)), 3)


def test_a_profile_of_other_colours_than_ink_is_left_aside() -> None:
    content = cmyk(INKS, "TIFF", icc_profile=orange_profile().replace(b"CMYK", b"RGB ", 1))
    assert_near(decoded(content), printed(patches(INKS)), 1)


ORANGE = (60, 40, 50)  # L*, a*, b*


def orange_profile() -> bytes:
    """An ICC v2 printer profile by hand, two grid points an ink: cyan prints orange, black black, others nothing."""
    lab = [(0, 0, 0) if node & 1 else ORANGE if node & 8 else (100, 0, 0) for node in range(16)]
    nodes = b"".join(bytes((round(2.55 * lightness), a + 128, b + 128)) for lightness, a, b in lab)
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramp * 4 + nodes + ramp * 3
    kinds = struct.pack(">I", 0x02400000) + b"prtrCMYKLab " + struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp"
    d50 = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    header = struct.pack(">I", 144 + len(table)) + bytes(4) + kinds + bytes(28) + d50 + bytes(48)
    return header + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def lab_on_screen(lightness: float, a: float, b: float) -> Pixels:
    """CIE L*a*b* of D50 to sRGB, by the textbook."""
    y = (lightness + 16) / 116
    cube = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(cube > 6 / 29, cube**3, (cube - 4 / 29) * 108 / 841) * [0.9642, 1.0, 0.8249]
    to_rgb = [[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]]
    light = np.clip(to_rgb @ xyz, 0, 1)
    return 255 * np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)


@pytest.mark.parametrize(("file_format", "options"), [("JPEG", {"quality": 100}), ("TIFF", {})], ids=["JPEG", "TIFF"])
def test_inks_are_seen_through_their_profile(file_format: str, options: dict[str, object]) -> None:
    inks = np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]])
    seen = np.array([[255, 255, 255], lab_on_screen(*ORANGE), [0, 0, 0]])
    content = cmyk(inks, file_format, icc_profile=orange_profile(), **options)
    assert_near(decoded(content), patches(seen), 5)


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("GIF", ANIMATED, 0),
        ("WEBP", {**ANIMATED, "lossless": True}, 0),
        ("PNG", ANIMATED, 0),
        ("TIFF", {"save_all": True}, 0),
        ("MPO", {"save_all": True, "quality": 95, "subsampling": 0}, 4),
        ("AVIF", {**ANIMATED, "quality": 95, "subsampling": "4:4:4"}, 12),
    ],
)
def test_the_first_frame_is_the_picture(
    picture: Pixels, file_format: str, options: dict[str, object], tolerance: int
) -> None:
    second = Image.fromarray(np.zeros_like(picture, dtype=np.uint8))
    content = stored(picture, file_format, append_images=[second], **options)
    assert_near(decoded(content), picture, tolerance)


def heic(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=90, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("WEBP", {"quality": 90}),
        ("AVIF", {"quality": 90}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "jpeg", "quality": 90}),
        ("GIF", {}),
    ],
)
def test_a_photo_comes_out_as_it_went_in(file_format: str, options: dict[str, object]) -> None:
    photo = photos()[1]
    found = decoded(encode(photo, file_format, **options))
    assert np.abs(found - np.asarray(photo)).mean() < 4


def test_heic_is_decoded_where_its_decoder_is_installed() -> None:
    photo = photos()[1]
    assert np.abs(decoded(heic(photo)) - np.asarray(photo)).mean() < 4


@pytest.mark.parametrize("orientation", LAID_DOWN)
def test_a_heic_is_turned_upright_once_though_its_exif_repeats_it(picture: Pixels, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    laid_down = np.ascontiguousarray(LAID_DOWN[orientation](picture).astype(np.uint8))
    content = heic(Image.fromarray(laid_down), exif=exif.tobytes(), chroma=444)
    assert (b"irot" in content or b"imir" in content) == (orientation != 1)
    assert_near(decoded(content), picture, 12)


def test_heic_is_refused_where_its_decoder_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    content = heic(photos()[1])
    monkeypatch.setattr(decoding, "HAS_HEIC", False)
    failure = refusal(content)
    assert failure.code is ErrorCode.UNSUPPORTED_FORMAT
    assert failure.message.startswith(
        "HEIC is not switched on in this service (its operator can: scripts/serve --heic);"
    )


def test_the_accepted_formats_name_heic_where_it_is_installed() -> None:
    assert decoding.ACCEPTED.endswith("TIFF, AVIF or HEIC")
    code = "import importlib.util; importlib.util.find_spec = lambda name: None; from handler import decoding"
    output = subprocess.run(
        [sys.executable, "-c", f"{code}; print(decoding.ACCEPTED)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output == "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF\n"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_an_rgb_image_comes_out_exactly_as_pillow_decodes_it(file_format: str) -> None:
    content = encode(photos()[2], file_format)
    expected = Image.open(io.BytesIO(content)).convert("RGB").tobytes()
    assert decoding.decode(content, max_pixels=64_000_000).tobytes() == expected


def in_format(file_format: str) -> bytes:
    return encode(Image.new("RGB", (32, 32), "teal"), file_format)


@pytest.mark.parametrize("content", [b"", b"\0", b"hello, world", b'{"a": 1}', "Köln".encode(), bytes(range(200, 256))])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    failure = refusal(content)
    assert failure.code is ErrorCode.NOT_AN_IMAGE
    assert "JPEG" in failure.message
    assert len(failure.message) < 300


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\n <html><body>404</body></html>", "HTML"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><svg/>', "SVG"),
        (in_format("PDF"), "PDF"),
        (in_format("EPS"), "PostScript"),
        (b"8BPS\0\1" + bytes(20), "Photoshop"),
        (in_format("JPEG2000"), "JPEG 2000"),
        (b"\xff\x4f\xff\x51" + bytes(20), "JPEG 2000"),
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "JPEG XL"),
        (in_format("ICO"), "icon"),
        (in_format("PPM"), "PPM"),
        (b"PK\x03\x04" + bytes(20), "ZIP"),
        (b"\x1f\x8b\x08" + bytes(20), "gzip"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video"),
        (b"\x1aE\xdf\xa3" + bytes(20), "video"),
    ],
)
def test_a_format_not_accepted_is_refused_by_its_name(content: bytes, name: str) -> None:
    failure = refusal(content)
    assert failure.code is ErrorCode.UNSUPPORTED_FORMAT
    assert name in failure.message.removesuffix(decoding.ACCEPTED)
    assert failure.message.isascii()
    assert len(failure.message) < 300


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_file_cut_short_is_refused(file_format: str, options: dict[str, object], share: float) -> None:
    content = encode(photos()[1].resize((150, 100)), file_format, **options)
    assert refusal(content[: int(share * len(content))]).code is ErrorCode.BROKEN_IMAGE


def checked_by_pillow(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.int64)


class TestIncompleteFiles:
    """Answered as the whole file is, if all its picture data is there; refused if not."""

    @pytest.mark.parametrize(
        "options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"quality": 100, "subsampling": 0}]
    )
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("behind", [b"", bytes(700)], ids=["", "zeros"])
    def test_a_jpeg_without_its_end_marker(self, mode: str, options: dict[str, object], behind: bytes) -> None:
        content = encode(photos()[1].resize((149, 99)).convert(mode), "JPEG", **options)
        assert_near(decoded(content[:-2] + behind), decoded(content), 0)
        assert_near(decoded(content[:-1]), decoded(content), 0)

    def test_a_large_jpeg_without_its_end_marker(self) -> None:
        content = encode(cutouts(1)[0].resize((1411, 1203)), "JPEG")
        whole, cut = (decoding.decode(c, max_pixels=10**8, min_side=510) for c in (content, content[:-2]))
        assert cut.size == (706, 602)
        assert cut.tobytes() == whole.tobytes()
        with pytest.raises(RequestError):
            decoding.decode(content[:-2000], max_pixels=10**8, min_side=510)

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
    @pytest.mark.parametrize("missing", [12, 40, 300, 2000])
    def test_a_jpeg_without_the_end_of_its_scan_is_refused(self, options: dict[str, object], missing: int) -> None:
        content = encode(photos()[1].resize((149, 99)), "JPEG", **options)
        assert refusal(content[:-missing]).code is ErrorCode.BROKEN_IMAGE

    def test_a_jpeg_without_its_last_scans_is_refused(self) -> None:
        content = encode(photos()[1].resize((149, 99)), "JPEG", progressive=True)
        scans = [i for i in range(len(content)) if content.startswith(b"\xff\xda", i)]
        assert len(scans) > 3
        for scan in scans[1:]:
            assert refusal(content[:scan]).code is ErrorCode.BROKEN_IMAGE

    @pytest.mark.parametrize("missing", [1, 2, 3])
    def test_a_gif_without_its_end(self, missing: int) -> None:
        content = encode(photos()[1].resize((97, 63)), "GIF")  # its last bytes: the rest of a code, a zero, the trailer
        assert_near(decoded(content[:-missing]), checked_by_pillow(content), 0)

    @pytest.mark.parametrize("missing", [1, 2, 3])
    def test_a_bmp_without_its_last_padding(self, noise: Pixels, missing: int) -> None:
        content = stored(noise[:, :19], "BMP")  # 57 bytes a row, and three of padding
        assert_near(decoded(content[:-missing]), noise[:, :19], 0)
        assert refusal(content[:-4]).code is ErrorCode.BROKEN_IMAGE

    @pytest.mark.parametrize("options", [{}, {"lossless": True}])
    @pytest.mark.parametrize("missing", [1, 2, 25, 30, 31, 32, 38])
    def test_a_webp_without_the_end_of_its_metadata(
        self, picture: Pixels, options: dict[str, object], missing: int
    ) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        content = stored(LAID_DOWN[6](picture), "WEBP", exif=exif, xmp=bytes(30), **options)
        assert content[-38:-30] == b"XMP \x1e\0\0\0"
        assert_near(decoded(content[:-missing]), decoded(content), 0)

    @pytest.mark.parametrize("size", [0, 100, 2**31])
    def test_a_webp_of_a_wrong_size(self, noise: Pixels, size: int) -> None:
        content = stored(noise, "WEBP", lossless=True)
        assert_near(decoded(content[:4] + struct.pack("<I", size) + content[8:]), noise, 0)

    @pytest.mark.parametrize("missing", range(1, 17))
    def test_a_png_without_its_end(self, noise: Pixels, missing: int) -> None:
        assert_near(decoded(stored(noise, "PNG")[:-missing]), noise, 0)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class TestDamagedChunks:
    """Of a PNG: what no pixel needs may be damaged; the header, the palette and the data may not."""

    @pytest.mark.parametrize(
        ("kind", "data"),
        [
            (b"tEXt", b"Comment\0hello"),
            (b"tIME", bytes(7)),
            (b"pHYs", bytes(9)),
            (b"gAMA", struct.pack(">I", 45455)),
            (b"sRGB", b"\0"),
            (b"iCCP", b"a\0\0" + zlib.compress(b"profile")),
        ],
    )
    def test_a_checksum_that_does_not_fit(self, noise: Pixels, kind: bytes, data: bytes) -> None:
        content, damaged = stored(noise, "PNG"), chunk(kind, data)[:-1] + b"?"
        for at in (33, len(content) - 12):
            assert_near(decoded(content[:at] + damaged + content[at:]), noise, 0)

    @pytest.mark.parametrize(("kind", "data"), [(b"pHYs", b"\0"), (b"sRGB", b""), (b"gAMA", b"\0"), (b"cHRM", b"\0")])
    def test_one_that_is_too_short(self, noise: Pixels, kind: bytes, data: bytes) -> None:
        content = stored(noise, "PNG")
        assert_near(decoded(content[:33] + chunk(kind, data) + content[33:]), noise, 0)

    def test_texts_that_inflate_to_more_than_pillow_allows(self, noise: Pixels) -> None:
        content, text = stored(noise, "PNG"), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000)))
        assert_near(decoded(content[:33] + text + content[33:]), noise, 0)
        assert_near(decoded(content[:-12] + text + content[-12:]), noise, 0)

    def test_one_behind_the_data_that_is_cut(self, noise: Pixels) -> None:
        content = stored(noise, "PNG")[:-12] + chunk(b"tEXt", b"Comment\0hello")
        assert_near(decoded(content[:-10]), noise, 0)

    def test_an_orientation_remains(self, picture: Pixels) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        content = stored(LAID_DOWN[6](picture), "PNG", exif=exif)
        assert_near(decoded(content[:33] + chunk(b"tEXt", b"a\0b")[:-1] + b"?" + content[33:]), picture, 0)

    @pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
    def test_a_critical_one_is_refused(self, indices: Pixels, palette: Pixels, kind: bytes) -> None:
        content = bytearray(encode(palette_image(indices, palette), "PNG"))
        at = content.index(kind)
        content[at + 6] ^= 0x55
        assert refusal(bytes(content)).code is ErrorCode.BROKEN_IMAGE


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_heic_cut_short_is_refused(share: float) -> None:
    content = heic(photos()[1].resize((150, 100)))
    assert refusal(content[: int(share * len(content))]).code is ErrorCode.BROKEN_IMAGE


@pytest.mark.parametrize("rest", [b"", b"\0" * 500, b"junk" * 500], ids=["nothing", "zeros", "junk"])
@pytest.mark.parametrize(
    "signature",
    [
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a\1\0\1\0\0\0\0",
        b"RIFF\0\1\0\0WEBP",
        b"BM" + bytes(12) + b"\x28\0\0\0",
        b"II*\0",
        b"MM\0*",
        b"\0\0\0\x1cftypavif",
        b"\0\0\0\x1cftypheic",
    ],
)
def test_junk_behind_a_good_signature_is_refused(signature: bytes, rest: bytes) -> None:
    assert refusal(signature + rest).code is ErrorCode.BROKEN_IMAGE


@pytest.mark.parametrize("signature", [b"\xff\xd8\xff\xe0", b"II*\0", b"GIF89a"])
def test_no_decoder_but_the_signatures_own_is_tried(signature: bytes) -> None:
    photo_cd = signature.ljust(2048, b"\0") + b"PCD_" + bytes(1_000_000)  # Pillow knows a Photo CD by its byte 2048
    assert Image.open(io.BytesIO(photo_cd)).format == "PCD"
    assert refusal(photo_cd).code is ErrorCode.BROKEN_IMAGE


@pytest.mark.parametrize("side", [8001, 10_000, 50_000])
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(side: int) -> None:
    assert refusal(png(side, side, 8, 2, b"no pixels")).code is ErrorCode.TOO_MANY_PIXELS


def test_more_pixels_than_pillow_itself_allows_are_too_many() -> None:
    header = png(20_000, 10_000, 8, 2, b"no pixels")
    assert refusal(header, max_pixels=10**12).code is ErrorCode.TOO_MANY_PIXELS


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_the_limit_on_pixels_is_the_last_number_accepted(file_format: str) -> None:
    content = encode(Image.new("RGB", (20, 10), "teal"), file_format)
    assert decoding.decode(content, max_pixels=200).size == (20, 10)
    assert refusal(content, max_pixels=199).code is ErrorCode.TOO_MANY_PIXELS


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_a_picture_may_be_one_pixel_thin(file_format: str, shape: tuple[int, int]) -> None:
    assert_near(decoded(stored(np.full((*shape, 3), 128), file_format)), np.full((*shape, 3), 128), 2)


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_costs_a_pass_each() -> None:
    content = encode(Image.new("L", (64, 64), 90), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    scan, end = content[last:-2], content[-2:]
    repeated = content[:-2] + scan * 5000 + end
    with pytest.raises(RequestError) as refusal:
        decoding.decode(repeated, max_pixels=64_000_000)
    assert refusal.value.code is ErrorCode.BROKEN_IMAGE


@pytest.mark.parametrize("clear", [1000, 100])
def test_one_clear_shade_of_a_16_bit_grey_png_is_laid_over_white(clear: int) -> None:
    shades = np.array([[0, clear, 30000], [100 * 257, 65535, 2000]], np.uint16)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in shades)
    expected = np.where(shades == clear, 255, np.round(shades / 257))
    assert_near(decoded(png(3, 2, 16, 0, raw, (b"tRNS", struct.pack(">H", clear)))), np.dstack([expected] * 3), 0)


class TestLargePhotos:
    """Decoded at a part of their size by libjpeg, where that is enough; all others as ever."""

    def photo(self, size: tuple[int, int], **options: object) -> bytes:
        return encode(cutouts(1)[0].resize(size, Image.Resampling.LANCZOS), quality=95, **options)

    @pytest.mark.parametrize(
        ("size", "scaled"),
        [
            ((4000, 3000), (1000, 750)),
            ((3000, 4000), (750, 1000)),
            ((2040, 2040), (510, 510)),
            ((1021, 1500), (511, 750)),
            ((1019, 1500), (1019, 1500)),
            ((600, 5000), (600, 5000)),
        ],
    )
    def test_the_shorter_side_stays_long_enough(self, size: tuple[int, int], scaled: tuple[int, int]) -> None:
        assert decoding.decode(self.photo(size), max_pixels=10**8, min_side=510).size == scaled
        assert decoding.decode(self.photo(size), max_pixels=10**8).size == size

    @pytest.mark.parametrize("size", [(1600, 1200), (1411, 1411), (1201, 1603)])
    def test_what_the_network_sees_is_nearly_the_same(self, size: tuple[int, int]) -> None:
        content = self.photo(size)
        whole, scaled = (
            cropping.crop(decoding.decode(content, max_pixels=10**8, min_side=e)) for e in (None, cropping.MIN_SIDE)
        )
        difference = np.abs(np.asarray(whole).astype(int) - np.asarray(scaled).astype(int))
        assert difference.mean() < 1.0
        assert np.percentile(difference, 99.9) <= 12

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_they_are_upright_too(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[274] = orientation
        content = self.photo((1411, 1203), exif=exif)
        whole, scaled = (
            cropping.crop(decoding.decode(content, max_pixels=10**8, min_side=e)) for e in (None, cropping.MIN_SIDE)
        )
        assert np.abs(np.asarray(whole).astype(int) - np.asarray(scaled).astype(int)).mean() < 1.0

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
    def test_other_formats_are_decoded_whole(self, file_format: str) -> None:
        content = encode(cutouts(1)[0].resize((1200, 1100)), file_format)
        assert decoding.decode(content, max_pixels=10**8, min_side=510).size == (1200, 1100)

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_grey_and_cmyk_ones_come_out_in_rgb(self, mode: str) -> None:
        content = encode(cutouts(1)[0].resize((1600, 1200)).convert(mode), "JPEG")
        scaled = decoding.decode(content, max_pixels=10**8, min_side=510)
        assert (scaled.mode, scaled.size) == ("RGB", (800, 600))
