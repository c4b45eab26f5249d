"""A run: what every part of it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densenet.benchmark import images
from densenet.benchmark.convert import Models
from densenet.benchmark.plan import LARGE, SMALL, Contender, Effort, Engine, Size
from densenet.benchmark.record import Record

_PHOTOS = {SMALL: 32, LARGE: 4}  # how many different ones are sent
_CALIBRATION = 40


@dataclass(frozen=True)
class Run:
    """folder: for everything that is gone after the run. precisions: of ours."""

    folder: Path
    models: Models
    photos: dict[Size, list[Path]]
    engines: Sequence[Engine]
    contenders: Sequence[Contender]
    precisions: Sequence[str]
    effort: Effort
    record: Record

    def scratch(self, name: str) -> Path:
        """An empty folder for one start of one service."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder


def draw_photos(folder: Path) -> dict[Size, list[Path]]:
    """The photos that are sent, by their size."""
    return {size: images.write(folder / "photos", size, count) for size, count in _PHOTOS.items()}


def draw_calibration(folder: Path) -> Path:
    """A folder of photos to quantise with, none of which is sent."""
    last = _PHOTOS[SMALL]
    for path in images.write(folder / "calibration", SMALL, last + _CALIBRATION)[:last]:
        path.unlink()
    return folder / "calibration"
