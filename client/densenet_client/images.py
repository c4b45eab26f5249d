"""From what a program holds of an image to the bytes that are sent."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from PIL import Image

Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image"
"""An image: the path of a file, its content, or a Pillow picture."""

# Pillow's modes that a PNG holds as they are. What is in neither list goes into a TIFF: CMYK, and numbers wider than
# 8 bits, which the service treats in ways of its own.
_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")
# Modes that the service would make RGB of in the same way.
_CONVERTED = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}
_COMPRESSION = 1  # zlib's fastest; on photos level 6 takes three to four times as long, to save an eighth at most


def prepare(image: Source) -> Callable[[], bytes]:
    """What gives the encoded image, in any thread. What its owner could change meanwhile is copied now; a file is not
    opened yet.

    Raises OSError, now or when called: no such file, a folder, a picture that cannot be decoded or encoded.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        content = bytes(image)
        return lambda: content
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes
    # Whoever has a picture has loaded Pillow; all others do without.
    pillow = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(image, pillow.Image):
        raise TypeError(f"an image is a path, bytes or a Pillow picture, not {type(image).__name__}")
    with _os_error():
        return partial(_encode, _upright(image))


def _upright(picture: "Image.Image") -> "Image.Image":
    """A copy, turned by its EXIF orientation as the service turns a file; damaged EXIF leaves it as it is."""
    from PIL import ImageOps

    with suppress(Exception):
        return ImageOps.exif_transpose(picture)
    return picture.copy()


def _encode(picture: "Image.Image") -> bytes:
    """Without any loss, so that the answer is that of the picture itself."""
    buffer = io.BytesIO()
    with _os_error():
        if picture.mode in _CONVERTED:
            picture = picture.convert(_CONVERTED[picture.mode])
        if picture.mode in _PNG:
            picture.save(buffer, "PNG", compress_level=_COMPRESSION)
        else:
            picture.save(buffer, "TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()


@contextmanager
def _os_error() -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Pillow raises whatever a damaged, closed or empty picture leads it into
        raise OSError(f"the picture cannot be encoded: {error}") from error
