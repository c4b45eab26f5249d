"""python -m densenet.service.batch_times ARCHIVE: print milliseconds an image, by batch size, as JSON.

A program of its own: importing torch takes seconds, which scripts/serve spends only on a network it does not know yet.
"""

import json
import sys
import time
import zipfile
from pathlib import Path
from statistics import median

import torch

from densenet.service.batches import SIZES
from export import NETWORK
from export.archive import read_card, read_config
from handler import cores, scoring
from handler.cropping import CROP
from handler.scoring import Network
from handler.settings import AUTO, Settings
from handler.threads import share

_SECONDS = 2.0
_MIN_TURNS = 3  # for slow machines


def measure(network: Network, chunk: int, seconds: float = _SECONDS) -> dict[int, float]:
    """Return the median milliseconds an image by batch size; the sizes take turns, so that disturbances hit all.

    chunk: maximum images per pass through the network.
    """
    batches = {size: torch.randn(size, 3, CROP, CROP) for size in SIZES}
    for batch in batches.values():
        _score(network, batch, chunk)
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[1]) < _MIN_TURNS:
        for size, batch in batches.items():
            times[size].append(_score(network, batch, chunk) / size)
    return {size: median(turns) for size, turns in times.items()}


def _score(network: Network, batch: torch.Tensor, chunk: int) -> float:
    """Return the milliseconds that a batch takes."""
    begun = time.perf_counter()
    scoring.score(network, batch, chunk=chunk)
    return (time.perf_counter() - begun) * 1000


def main(archive: Path) -> None:
    """Measure the network of an archive as a worker runs it."""
    settings = Settings.from_config(read_config(archive), read_card(archive)["classes"]["count"])
    # A worker that is the only one takes all cores.
    auto = settings.threads == AUTO
    torch.set_num_threads(share(cores.physical(), 1) if auto else int(settings.threads))
    with zipfile.ZipFile(archive) as packed:
        network = scoring.read(packed.read(NETWORK))
    scoring.warm_up(network)
    print(json.dumps(measure(network, settings.network_batch)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
