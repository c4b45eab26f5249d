"""A run: the inputs of every part."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densenet.benchmark import images
from densenet.benchmark.convert import Models
from densenet.benchmark.plan import LARGE, SMALL, Effort, Engine, ServedSystem, Size
from densenet.benchmark.record import Record

_PHOTOS = {SMALL: 32, LARGE: 4}  # number of distinct photos
_CALIBRATION = 40


@dataclass(frozen=True)
class Run:
    """The inputs of a run. folder: for temporary files. precisions: of our own services."""

    folder: Path
    models: Models
    photos: dict[Size, list[Path]]
    engines: Sequence[Engine]
    served_systems: Sequence[ServedSystem]
    precisions: Sequence[str]
    effort: Effort
    record: Record

    def scratch(self, name: str) -> Path:
        """Create an empty folder for one start of one service."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder


def draw_photos(folder: Path) -> dict[Size, list[Path]]:
    """Write the photos to send, by size."""
    return {size: images.write(folder / "photos", size, count) for size, count in _PHOTOS.items()}


def draw_calibration(folder: Path) -> Path:
    """Write a folder of calibration photos, distinct from those that are sent."""
    last = _PHOTOS[SMALL]
    for path in images.write(folder / "calibration", SMALL, last + _CALIBRATION)[:last]:
        path.unlink()
    return folder / "calibration"
