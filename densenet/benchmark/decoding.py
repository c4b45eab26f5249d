"""Measure decoding and transforming without the network: the tutorial's implementation and ours."""

import io
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from densenet.benchmark import images, plan, subprocess_rpc
from densenet.benchmark.plan import LARGE, MEDIUM, SMALL, Part
from densenet.benchmark.record import log
from densenet.benchmark.run import Run
from densenet.benchmark.statistics import milliseconds

SIZES = (SMALL, MEDIUM, LARGE)
TUTORIAL, OURS, EXACT = "tutorial", "ours", "ours, exact_decoding"
_PASSES = 5  # per round; the median counts
_PHOTOS = 3  # distinct photos of each size


def measure(run: Run) -> None:
    """Add a row for each size, way and round: milliseconds for one photo on one thread."""
    with run.record.guarded(Part.DECODING, "decoding"):
        photos = {str(size): images.write(run.folder / "decoding", size, _PHOTOS) for size in SIZES}
        for row in subprocess_rpc.run(times, photos, run.effort.rounds):
            run.record.add(Part.DECODING, **row)
        log(f"decoding: {len(SIZES)} sizes, {run.effort.rounds} rounds")


def times(photos: dict[str, list[Path]], rounds: int) -> list[dict[str, Any]]:
    """Return the rows. photos: files by size."""
    import torch

    torch.set_num_threads(1)
    contents = {size: [path.read_bytes() for path in paths] for size, paths in photos.items()}
    ways = _ways()
    every = [(size, way) for size in contents for way in ways]
    return [
        {"round": turn, "size": size, "way": way, "milliseconds": _milliseconds(ways[way], contents[size])}
        for turn in range(rounds)
        for size, way in plan.in_order(every, turn)
    ]


def _ways() -> dict[str, Callable[[bytes], object]]:
    from PIL import Image

    from densenet.evaluation.eager import TRANSFORM
    from handler import cropping, decoding, transform
    from handler.settings import Settings

    def tutorial(content: bytes) -> object:
        return TRANSFORM(Image.open(io.BytesIO(content))).unsqueeze(0)

    def ours(content: bytes, min_side: int | None = cropping.MIN_SIDE) -> object:
        decoded = decoding.decode(content, max_pixels=Settings().max_image_pixels, min_side=min_side)
        return transform.normalize([cropping.crop(decoded).tobytes()])

    return {TUTORIAL: tutorial, OURS: ours, EXACT: lambda content: ours(content, None)}


def _milliseconds(way: Callable[[bytes], object], contents: list[bytes]) -> float:
    """Return the median milliseconds of several passes over all photos."""
    return median(milliseconds(way, content) for _ in range(_PASSES) for content in contents)
