"""python -m densenet.service.batch_times ARCHIVE THREADS CHUNK: print milliseconds an image, by batch size, as JSON.

A program of its own: importing torch takes seconds, which scripts/serve spends only on a network it does not know yet.
"""

import functools
import json
import sys
import time
import zipfile
from pathlib import Path

import torch

from densenet.service.batches import SIZES
from export import NETWORK
from handler import scoring
from handler.cropping import CROP
from handler.scoring import Network

_SECONDS = 2.0
_MIN_TURNS = 3  # for slow machines


def measure(network: Network, threads: int, chunk: int, seconds: float = _SECONDS) -> dict[int, float]:
    """Return the least milliseconds an image by batch size, which other programs disturb least; the sizes take turns.

    threads, chunk: as in scoring.score().
    """
    batches = {size: torch.randn(size, 3, CROP, CROP) for size in SIZES}
    score = functools.partial(scoring.score, network, threads=threads, chunk=chunk)
    for batch in batches.values():
        score(batch)
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[1]) < _MIN_TURNS:
        for size, batch in batches.items():
            begun = time.perf_counter()
            score(batch)
            times[size].append((time.perf_counter() - begun) * 1000 / size)
    return {size: min(turns) for size, turns in times.items()}


def main(archive: Path, threads: int, chunk: int) -> None:
    """Measure the network of an archive as a worker runs it."""
    with zipfile.ZipFile(archive) as packed:
        network = scoring.read(packed.read(NETWORK))
    scoring.warm_up(network, threads)
    print(json.dumps(measure(network, threads, chunk)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
