"""Encode images for sending."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

if TYPE_CHECKING:
    from PIL import Image

Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image"
"""An image: the path of a file, its bytes, or a Pillow image."""

# Pillow's modes that PNG supports. Modes in neither list are sent as TIFF: CMYK and samples wider than 8 bits, which
# the service must convert itself.
_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")
# The service would convert these modes to RGB in the same way.
_CONVERTED = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}
_COMPRESSION = 1  # zlib's fastest level; on photos level 6 takes 3 to 4 times as long and saves an eighth at most


def prepare(image: Source) -> Callable[[], bytes]:
    """Return a function that encodes the image in any thread.

    Data that the caller could change is copied now. A file is opened when the function is called.

    Raises: OSError, now or in that function, for a missing file, a folder, or an image that cannot be decoded or
    encoded; TypeError for another type.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        content = bytes(image)
        return lambda: content
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes
    # A caller with a Pillow image has imported Pillow; others do not need it.
    pillow = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(image, pillow.Image):
        raise TypeError(f"an image must be a path, bytes or a Pillow image, not {type(image).__name__}")
    with _os_error():
        return partial(_encode, _upright(image))


def prepare_or_defer(image: Source) -> Callable[[], bytes]:
    """Prepare one of several images; leave an OSError to the function, so that it takes the image's place."""
    try:
        return prepare(image)
    except OSError as error:
        return partial(_raise, error)


def _raise(error: OSError) -> NoReturn:
    raise error


def _upright(image: "Image.Image") -> "Image.Image":
    """Return a copy with its EXIF orientation applied, as the service does for files; ignore damaged EXIF data."""
    from PIL import ImageOps

    with suppress(Exception):
        return ImageOps.exif_transpose(image)
    return image.copy()


def _encode(image: "Image.Image") -> bytes:
    """Encode losslessly, so that the encoding does not affect the answer."""
    buffer = io.BytesIO()
    with _os_error():
        if image.mode in _CONVERTED:
            image = image.convert(_CONVERTED[image.mode])
        if image.mode in _PNG:
            image.save(buffer, "PNG", compress_level=_COMPRESSION)
        else:
            image.save(buffer, "TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()


@contextmanager
def _os_error() -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Pillow raises many types for damaged, closed or empty images
        raise OSError(f"the image cannot be encoded: {error}") from error
