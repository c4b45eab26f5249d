"""Colours end in sRGB where apply_colour_profiles is on: by textbook formulas, and by Pillow's ImageCms on its own."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from handler import boxes, cropping, decoding
from tests.photos import cutouts, encode
from tests.unit.handler.test_decoding import (
    LAID_DOWN,
    Pixels,
    assert_near,
    chunk,
    decoded,
    grey16_png,
    heic,
    orange_profile,
    over_white,
    palette_image,
    png,
    stored,
)

# X, Y and Z of red, green and blue at D50, as the profiles of their makers have them.
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
# From the light of other primaries to that of sRGB's: CSS Color 4, and BT.2087 for BT.2020.
P3_TO_SRGB = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
BT2020_TO_SRGB = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
D50_TO_SRGB = np.array([[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]])
SAME = np.eye(3)


def managed(content: bytes) -> Pixels:
    return np.asarray(decoding.decode(content, max_pixels=64_000_000, colour_profiles=True), dtype=np.int64)


def light_of_srgb(values: Pixels) -> Pixels:
    share = values / 255
    return np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)


def in_srgb(light: Pixels, matrix: Pixels = SAME) -> Pixels:
    light = np.clip(light @ matrix.T, 0, 1)
    return 255 * np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)


def icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC v2 profile of a screen by hand."""
    at, table, data = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, at + len(data), len(value))
        data += value
    kinds = (
        struct.pack(">I", 0x02400000) + b"mntr" + space + b"XYZ " + struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp"
    )
    d50 = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    return struct.pack(">I", at + len(data)) + bytes(4) + kinds + bytes(28) + d50 + bytes(48) + table + data


def curve(gamma: float) -> bytes:
    return struct.pack(">4s4xIHxx", b"curv", 1, round(256 * gamma))


def colour_profile(colorants: tuple[tuple[float, ...], ...], gamma: float) -> bytes:
    tags = {}
    for name, xyz in zip("rgb", colorants, strict=True):
        tags[f"{name}XYZ".encode()] = struct.pack(">4s4x3i", b"XYZ ", *(round(65536 * value) for value in xyz))
        tags[f"{name}TRC".encode()] = curve(gamma)
    return icc(b"RGB ", tags)


PROFILES = {"AdobeRGB": (ADOBE, 2.19921875), "ProPhoto": (PROPHOTO, 1.80078125)}
LINEAR_GREY = icc(b"GRAY", {b"kTRC": curve(1.0)})


def by_image_cms(pixels: Image.Image, profile: bytes) -> Pixels:
    """Converted by Pillow's ImageCms, as its documentation shows."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), pixels.mode, "RGB")
    return np.asarray(ImageCms.applyTransform(pixels, transform), dtype=np.int64)


@pytest.fixture
def noise() -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (12, 20, 3))


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("AVIF", {"quality": 90}),
    ],
)
def test_an_embedded_profile_is_applied(noise: Pixels, file_format: str, options: dict[str, object], name: str) -> None:
    profile = colour_profile(*PROFILES[name])
    content = stored(noise, file_format, icc_profile=profile, **options)
    plain = decoded(content)
    assert_near(plain, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), 0)
    assert_near(managed(content), by_image_cms(Image.fromarray(plain.astype(np.uint8)), profile), 0)
    colorants, gamma = PROFILES[name]
    light = (plain / 255) ** gamma @ np.array(colorants)
    assert_near(managed(content), in_srgb(light, D50_TO_SRGB), 2)


def test_a_profile_of_a_heic_is_applied() -> None:
    profile = colour_profile(*PROFILES["AdobeRGB"])
    content = heic(cutouts(1)[0].resize((96, 64)), icc_profile=profile)
    assert_near(managed(content), by_image_cms(Image.fromarray(decoded(content).astype(np.uint8)), profile), 0)


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("TIFF", {}), ("JPEG", {"quality": 100})])
def test_a_profile_of_grey_is_applied(file_format: str, options: dict[str, object]) -> None:
    content = stored(np.arange(240).reshape(12, 20), file_format, icc_profile=LINEAR_GREY, **options)
    assert_near(managed(content), in_srgb(decoded(content) / 255), 1)


def test_a_profile_of_colours_is_applied_to_grey(noise: Pixels) -> None:
    grey = noise[..., 0]
    content = stored(grey, "TIFF", icc_profile=colour_profile(ADOBE, 1.0))
    assert_near(managed(content), in_srgb(np.dstack([grey] * 3) / 255), 1)


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_colours_are_converted_before_they_are_laid_over_white(
    noise: Pixels, file_format: str, options: dict[str, object]
) -> None:
    alpha = np.linspace(0, 255, 12 * 20).round().astype(np.int64).reshape(12, 20)
    profile = colour_profile(*PROFILES["ProPhoto"])
    content = stored(np.dstack([noise, alpha]), file_format, icc_profile=profile, **options)
    colours = by_image_cms(Image.fromarray(noise.astype(np.uint8)), profile)
    assert_near(managed(content), over_white(colours, alpha), 1)


@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_photos_with_a_profile_are_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    profile = colour_profile(*PROFILES["AdobeRGB"])
    pixels = np.asarray(cutouts(1)[0].resize((96, 64)))
    content = stored(LAID_DOWN[orientation](pixels), "PNG", exif=exif, icc_profile=profile)
    assert_near(managed(content), by_image_cms(Image.fromarray(pixels), profile), 0)


def test_a_large_photo_that_is_decoded_at_a_half_keeps_its_profile() -> None:
    profile = colour_profile(*PROFILES["AdobeRGB"])
    content = encode(cutouts(1)[0].resize((1411, 1203)), quality=95, icc_profile=profile)
    whole, scaled = (
        np.asarray(
            cropping.crop(decoding.decode(content, max_pixels=10**8, min_side=side, colour_profiles=True)), np.int64
        )
        for side in (None, cropping.MIN_SIDE)
    )
    assert np.abs(whole - scaled).mean() < 1.0


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(b"garbage", id="garbage"),
        pytest.param(b"\0" * 200, id="zeros"),
        pytest.param(colour_profile(*PROFILES["AdobeRGB"])[:150], id="cut"),
        pytest.param(LINEAR_GREY, id="of grey"),
        pytest.param(orange_profile(), id="of inks"),
        pytest.param(colour_profile(*PROFILES["AdobeRGB"]) + bytes(4_000_000), id="too long"),
    ],
)
def test_a_profile_that_does_not_fit_is_left_aside(noise: Pixels, profile: bytes) -> None:
    content = stored(noise, "TIFF", icc_profile=profile)
    assert_near(managed(content), noise, 0)


def gama(value: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", value)


def chrm(*values: int) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *values)


def cicp(primaries: int, transfer: int, matrix: int = 0, full_range: int = 1) -> tuple[bytes, bytes]:
    return b"cICP", bytes((primaries, transfer, matrix, full_range))


SRGB = (b"sRGB", b"\0")
ICCP = (b"iCCP", b"a\0\0" + zlib.compress(colour_profile(ADOBE, 1.0)))
P3 = chrm(31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
BT709 = chrm(31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def rgb_png(pixels: Pixels, *chunks: tuple[bytes, bytes]) -> bytes:
    raw = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in pixels)
    return png(pixels.shape[1], pixels.shape[0], 8, 2, raw, *chunks)


def power(exponent: float, matrix: Pixels = SAME) -> Callable[[Pixels], Pixels]:
    return lambda pixels: in_srgb((pixels / 255) ** exponent, matrix)


def adobe_linear(pixels: Pixels) -> Pixels:
    return in_srgb(pixels / 255 @ np.array(ADOBE), D50_TO_SRGB)


def p3(pixels: Pixels) -> Pixels:
    return in_srgb(light_of_srgb(pixels), P3_TO_SRGB)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param([gama(100_000)], power(1.0), id="linear"),
        pytest.param([gama(35_000)], power(1 / 0.35), id="gamma 0.35"),
        pytest.param([gama(55_555)], power(1 / 0.55555), id="gamma of old Macs"),
        pytest.param([gama(45_455)], None, id="gamma 1/2.2 alone is sRGB's"),
        pytest.param([gama(45_455), BT709], power(2.2), id="gamma 1/2.2 with chromaticities"),
        pytest.param([gama(100_000), P3], power(1.0, P3_TO_SRGB), id="gamma and chromaticities"),
        pytest.param([P3], None, id="chromaticities alone"),
        pytest.param([gama(0)], None, id="no gamma"),
        pytest.param([gama(50_000), chrm(*[0] * 8)], None, id="no chromaticities"),
        pytest.param([SRGB, gama(100_000)], None, id="sRGB before gamma"),
        pytest.param([ICCP, gama(35_000)], adobe_linear, id="profile before gamma"),
        pytest.param([cicp(12, 13), SRGB, gama(100_000)], p3, id="code points before all"),
        pytest.param([cicp(12, 13), ICCP], p3, id="code points before a profile"),
        pytest.param([cicp(12, 13)], p3, id="Display P3"),
        pytest.param([cicp(9, 13)], lambda pixels: in_srgb(light_of_srgb(pixels), BT2020_TO_SRGB), id="BT.2020"),
        pytest.param([cicp(9, 14)], power(2.4, BT2020_TO_SRGB), id="BT.2020 with its curve"),
        pytest.param([cicp(1, 8)], power(1.0), id="linear code point"),
        pytest.param([cicp(1, 4)], power(2.2), id="gamma 2.2 code point"),
        pytest.param([cicp(1, 13)], None, id="sRGB by code points"),
        pytest.param([cicp(2, 2)], None, id="unspecified"),
        pytest.param([cicp(12, 13, full_range=0)], None, id="not the full range"),
        pytest.param([cicp(200, 13)], None, id="unknown primaries"),
        pytest.param([cicp(12, 200)], None, id="unknown curve"),
        pytest.param([cicp(2, 8)], power(1.0), id="unspecified primaries"),
        pytest.param([cicp(200, 13), ICCP], adobe_linear, id="a profile where the primaries are unknown"),
        pytest.param([(b"cICP", b"\x0c")], None, id="code points cut"),
    ],
)
def test_what_a_png_says_of_its_colours(
    noise: Pixels, chunks: list[tuple[bytes, bytes]], expected: Callable[[Pixels], Pixels] | None
) -> None:
    content = rgb_png(noise, *chunks)
    assert_near(managed(content), expected(noise) if expected else noise, 2 if expected else 0)
    assert_near(decoded(content), noise, 0)


def test_a_palette_is_converted(noise: Pixels) -> None:
    indices, palette = noise[..., 0] // 16, np.random.default_rng(2).integers(0, 200, (16, 3))
    content = encode(palette_image(indices, palette), "PNG")
    content = content[:33] + chunk(*gama(100_000)) + content[33:]
    assert_near(managed(content), in_srgb(palette[indices] / 255), 1)


def test_16_bit_grey_is_converted() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(128, 512)
    content = grey16_png(values)
    content = content[:33] + chunk(*gama(100_000)) + content[33:]
    # To 8 bits first: half a level of linear light is up to 6 levels of sRGB, in the darkest hundredth.
    expected = in_srgb(np.dstack([values] * 3) / 65535)
    assert_near(managed(content), expected, 7)
    assert_near(managed(content)[20:], expected[20:], 1.1)


@pytest.mark.parametrize("code", [16, 18], ids=["PQ", "HLG"])
def test_hdr_is_bright_and_dark_where_it_should_be(code: int) -> None:
    """BT.2408's reference white and mid-grey of both curves, and their peak."""
    peak = 192 if code == 16 else 255
    levels = np.array([0, 97, 148, peak]) if code == 16 else np.array([0, 97, 191, peak])
    found = managed(rgb_png(np.dstack([np.repeat(levels[None], 2, axis=0)] * 3), cicp(9, code)))[0, :, 0]
    assert found[0] == 0
    assert 60 <= found[1] <= 80  # 26 cd/m², an eighteenth of a white of 406
    assert 180 <= found[2] <= 190  # 203 cd/m², half of it
    assert found[3] == 255  # 1000 cd/m²


@pytest.mark.parametrize("write", [lambda image: encode(image, "AVIF", quality=95), heic], ids=["AVIF", "HEIC"])
def test_code_points_of_avif_and_heic(write: Callable[[Image.Image], bytes]) -> None:
    content = write(Image.fromarray(np.asarray(cutouts(1)[0].resize((96, 64)))))  # without its own profile
    at = content.index(b"colrnclx") + 8
    content = content[:at] + struct.pack(">HH", 12, 13) + content[at + 4 :]
    plain = decoded(content)
    assert_near(managed(content), p3(plain), 2)


def test_code_points_of_another_item_are_not_the_images(noise: Pixels) -> None:
    """The first colour box is that of an item which is not the image's."""
    content = stored(noise, "AVIF")
    at = content.index(b"colrnclx") + 8
    wide = content[:at] + struct.pack(">HH", 12, 13) + content[at + 4 :]
    other = wide.replace(b"pitm\0\0\0\0\0\1", b"pitm\0\0\0\0\0\2", 1)
    assert other != wide
    assert boxes.code_points(wide) == (12, 13)
    assert boxes.code_points(other) is None
