"""Calibration images: a folder of photographs like those that the service will see, read as the service reads them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from export.console import Problem, err
from handler import cropping, imaging, transform
from handler.failures import Failure
from handler.settings import Settings

LEAST = 20  # images in the folder; fewer say too little of the activations' ranges
_CALIBRATING, _HELD_OUT = 128, 512  # images used at most
_SHARE_HELD_OUT = 4  # one image in so many


@dataclass(frozen=True)
class Images:
    """Both float32 (N, 3, 224, 224), normalized: what a network is calibrated with, and what it is then measured on."""

    calibrating: Tensor
    held_out: Tensor


def read(folder: Path) -> Images:
    """All images below the folder, of a large one a part; which is held out does not depend on what else is there.

    Raises Problem where there are too few.
    """
    names = _names(folder)
    digests = {name: hashlib.sha256(name.encode()).digest() for name in names}
    in_order = sorted(names, key=digests.__getitem__)
    held_out = [name for name in in_order if digests[name][-1] % _SHARE_HELD_OUT == 0]
    calibrating = [name for name in in_order if digests[name][-1] % _SHARE_HELD_OUT]
    images = [_some(folder, part, most) for part, most in ((calibrating, _CALIBRATING), (held_out, _HELD_OUT))]
    count = sum(map(len, images))
    if count < LEAST or not all(images):
        raise Problem(f"{folder} holds {count} images that can be read; calibration wants {LEAST} at least, better 500")
    return Images(*(transform.normalize(part) for part in images))


def digest(folder: Path) -> str:
    """The sha256 of the names and contents of all files below the folder. Raises Problem where there is none."""
    whole = hashlib.sha256()
    for name in _names(folder):
        whole.update(f"{name}\0{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise Problem(f"there is no folder {folder}; --calibration-images takes one with photos")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _some(folder: Path, names: list[str], most: int) -> list[bytes]:
    crops: list[bytes] = []
    for name in names:
        if len(crops) == most:
            break
        content = (folder / name).read_bytes()
        if imaging.identify(content) is None:
            continue  # a list of labels, a thumbnail database
        try:
            image = imaging.decode(content, max_pixels=Settings().max_image_pixels)
            crops.append(cropping.crop(image).tobytes())
        except Failure as failure:
            err.print(f"{folder / name} is left out: {failure.message}", markup=False)
    return crops
