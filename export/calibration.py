"""Calibration images: a folder of representative photos, decoded and cropped as in the service."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from export.console import CliError, err
from handler import cropping, decoding, transform
from handler.errors import RequestError
from handler.settings import Settings

MIN_IMAGES = 20  # in the folder; fewer do not show the ranges of activations
_CALIBRATING, _HELD_OUT = 128, 512  # maximum numbers of images
_SHARE_HELD_OUT = 4  # one in four images is held out


@dataclass(frozen=True)
class Images:
    """Images for calibrating a network and for measuring it afterwards, both float32 (N, 3, 224, 224), normalized."""

    calibrating: Tensor
    held_out: Tensor


def read(folder: Path) -> Images:
    """Read the images below the folder, a subset of a large one.

    Whether an image is held out depends on its name only, not on the other images.

    Raises: CliError if there are too few.
    """
    names = _names(folder)
    digests = {name: hashlib.sha256(name.encode()).digest() for name in names}
    in_order = sorted(names, key=digests.__getitem__)
    held_out = [name for name in in_order if digests[name][-1] % _SHARE_HELD_OUT == 0]
    calibrating = [name for name in in_order if digests[name][-1] % _SHARE_HELD_OUT]
    images = [_some(folder, part, maximum) for part, maximum in ((calibrating, _CALIBRATING), (held_out, _HELD_OUT))]
    count = sum(map(len, images))
    if count < MIN_IMAGES or not all(images):
        raise CliError(f"{folder} has {count} readable images; calibration needs at least {MIN_IMAGES}, better 500")
    return Images(*(transform.normalize(part) for part in images))


def digest(folder: Path) -> str:
    """Return the sha256 of the names and contents of all files below the folder.

    Raises: CliError if the folder does not exist.
    """
    total = hashlib.sha256()
    for name in _names(folder):
        total.update(f"{name}\0{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise CliError(f"no such folder: {folder}; --calibration-images needs a folder of photos")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _some(folder: Path, names: list[str], maximum: int) -> list[bytes]:
    crops: list[bytes] = []
    for name in names:
        if len(crops) == maximum:
            break
        content = (folder / name).read_bytes()
        if decoding.identify(content) is None:
            continue  # not an image, such as a list of labels or a thumbnail database
        try:
            image = decoding.decode(content, max_pixels=Settings().max_image_pixels)
            crops.append(cropping.crop(image).tobytes())
        except RequestError as failure:
            err.print(f"{folder / name} is left out: {failure.message}", markup=False)
    return crops
