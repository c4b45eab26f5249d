"""What the service decodes is what a real Chromium paints: colours that files describe, and files without their end."""

import base64
import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from handler import decoding
from tests.photos import cutouts, encode
from tests.unit.handler import test_colours as colours
from tests.unit.handler import test_decoding as files

# Paints a file over white, and returns the canvas as a PNG.
PAINT = """async file => {
    const image = new Image();
    image.src = "data:;base64," + file;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    return canvas.toDataURL("image/png").split(",")[1];
}"""
NOISE = np.random.default_rng(1).integers(0, 256, (12, 20, 3))
PHOTO = Image.fromarray(np.asarray(cutouts(1)[0].resize((96, 64))))
PROFILE = colours.colour_profile(*colours.PROFILES["AdobeRGB"])


def described(*chunks: tuple[bytes, bytes]) -> Callable[[], bytes]:
    return lambda: colours.rgb_png(NOISE, *chunks)


def without_marker() -> bytes:
    content = files.cmyk(files.INKS, "JPEG", quality=100)
    return files.without(content, files.adobe_marker(content))


def avif_of_code_points() -> bytes:
    content = encode(PHOTO, "AVIF", quality=100, subsampling="4:4:4")
    at = content.index(b"colrnclx") + 8
    return content[:at] + struct.pack(">HH", 12, 13) + content[at + 4 :]


def damaged_text() -> bytes:
    content = encode(PHOTO, "PNG")
    return content[:33] + files.chunk(b"tEXt", b"a\0b")[:-1] + b"?" + content[33:]


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    return browser.new_page()


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(described(), id="nothing"),
        pytest.param(described(colours.gama(100_000)), id="gamma"),
        pytest.param(described(colours.gama(45_455)), id="gamma of sRGB"),
        pytest.param(described(colours.gama(45_455), colours.P3), id="gamma and chromaticities"),
        pytest.param(described(colours.SRGB, colours.gama(100_000)), id="sRGB before gamma"),
        pytest.param(described(colours.cicp(12, 13), colours.SRGB), id="code points before sRGB"),
        pytest.param(described(colours.cicp(12, 13), colours.ICCP), id="code points before a profile"),
        pytest.param(described(colours.cicp(9, 14)), id="BT.2020"),
        pytest.param(described(colours.cicp(12, 13, full_range=0)), id="not the full range"),
        pytest.param(described(colours.ICCP, colours.gama(35_000)), id="profile before gamma"),
        pytest.param(lambda: encode(PHOTO, "PNG", icc_profile=PROFILE), id="profile of a PNG"),
        pytest.param(lambda: encode(PHOTO, "JPEG", quality=95, icc_profile=PROFILE), id="profile of a JPEG"),
        pytest.param(lambda: encode(PHOTO, "WEBP", lossless=True, icc_profile=PROFILE), id="profile of a WebP"),
        pytest.param(lambda: encode(PHOTO.convert("L"), "PNG", icc_profile=colours.LINEAR_GREY), id="profile of grey"),
        pytest.param(avif_of_code_points, id="code points of an AVIF"),
        pytest.param(without_marker, id="CMYK without Adobe's marker"),
        pytest.param(lambda: encode(PHOTO, "GIF")[:-3], id="GIF without its end"),
        pytest.param(lambda: encode(PHOTO, "PNG")[:-16], id="PNG without its end"),
        pytest.param(damaged_text, id="damaged text of a PNG"),
    ],
)
def test_it_is_what_a_browser_paints(page: Page, build: Callable[[], bytes]) -> None:
    content = build()
    painted = base64.b64decode(page.evaluate(PAINT, base64.b64encode(content).decode()))
    expected = np.asarray(Image.open(io.BytesIO(painted)).convert("RGB"), dtype=np.int64)
    found = np.asarray(decoding.decode(content, max_pixels=10**6, colour_profiles=True), dtype=np.int64)
    files.assert_near(found, expected, 2)
