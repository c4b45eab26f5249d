"""Choose batchSize: how many requests a worker takes at once, by measuring the network on this machine.

A batch costs less for each image, but TorchServe forms it without looking at the other workers: within maxBatchDelay
one worker takes what idle ones could have computed. So several workers get pairs at most, and only where these save
much, as int8 does with AMX. More pays under constant overload, of which the operator knows.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

from densenet.paths import RUN
from densenet.service import allocator
from densenet.service.torchserve import WAITING
from export import Precision, processor
from export.archive import read_card, read_config
from export.console import CliError, err
from handler import cores
from handler.settings import AUTO, Settings
from handler.threads import share

SIZES = (1, 2, 4, 8)
_FILE = "batches.json"
_SIMILAR = 1.03  # maximum ratio to the least time an image; smaller batches have less latency
_WORTH_IT = 0.95  # maximum ratio to the time of a single image
_WORTH_SHARING = 0.85  # the same for pairs where there are other workers
_TIMEOUT = 60  # seconds; importing torch takes some, and then the measurement two


def choose(times: Mapping[int, float], workers: int) -> int:
    """Return the size that pays. times: milliseconds an image, by size; 1 and 2 are among them."""
    if workers > 1:
        return 2 if times[2] <= _WORTH_SHARING * times[1] else 1
    size = min(size for size, time in times.items() if time <= _SIMILAR * min(times.values()))
    return size if times[size] <= _WORTH_IT * times[1] else 1


def size_for(archive: Path, workers: int | None, run: Path = RUN) -> int | None:
    """Return the batchSize to serve an archive with, or None to leave its model-config.yaml as it is.

    Measure a network that was not measured on this processor yet, and print the times, where the answer is not clear:
    pairs save too little in fp32 for several workers. A failure only costs the choice.

    workers: the number to start, if it is not the archive's.
    """
    config = read_config(archive)
    if config.get("batchSize") is not None or config.get("deviceType") == "gpu":
        return None
    try:
        workers = int(workers or config["minWorkers"])
        if workers > 1 and read_card(archive)["precision"] == Precision.FP32:
            return None
        times = _times(archive, config, workers, run)
    except (CliError, OSError, ValueError, LookupError, TypeError, AttributeError, SubprocessError) as error:
        err.print(f"batches were not measured, so each request is computed alone: {_reason(error)}", markup=False)
        return None
    size = choose(times, workers)
    err.print(f"batches: {_describe(times)}; batchSize {size}", markup=False)
    return size if size > 1 else None


def _times(archive: Path, config: Mapping[str, Any], workers: int, run: Path) -> dict[int, float]:
    """Return the milliseconds an image by size: those that are known, or measure them and remember them."""
    card = read_card(archive)
    settings = Settings.from_config(config, card["classes"]["count"])
    # While all workers are busy.
    threads = share(cores.physical(), workers) if settings.threads == AUTO else int(settings.threads)
    chosen = f"{threads} thread(s), passes of {settings.network_batch}"
    key = f"{card['network']['sha256']}, {chosen}, torch {metadata.version('torch')}, {processor.name()}"
    known = _load(run)
    with suppress(LookupError, TypeError, ValueError):  # none yet, or damaged
        return _parse(known[key])
    known[key] = _measure(archive, threads, settings.network_batch, run)
    _save(run, known)
    return _parse(known[key])


def _parse(times: Mapping[str, float]) -> dict[int, float]:
    return {size: float(times[str(size)]) for size in SIZES}


def _describe(times: Mapping[int, float]) -> str:
    alone, *others = times.items()
    return ", ".join([f"{alone[1]:.1f} ms an image alone", *(f"{time:.1f} by {size}" for size, time in others)])


def _measure(archive: Path, threads: int, chunk: int, run: Path) -> dict[str, float]:
    """Measure in a process of its own, with the allocator and the environment that workers get."""
    run.mkdir(exist_ok=True)
    command = [str(allocator.python(run)), "-P", "-m", "densenet.service.batch_times", str(archive)]
    command += [str(threads), str(chunk)]
    done = subprocess.run(
        command, env=WAITING | os.environ, capture_output=True, text=True, check=True, timeout=_TIMEOUT
    )
    return dict(json.loads(done.stdout))


def _reason(error: Exception) -> str:
    lines = error.stderr.strip().splitlines() if isinstance(error, subprocess.CalledProcessError) else []
    return lines[-1] if lines else str(error)


def _load(run: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, TypeError):  # none yet, or damaged
        return dict(json.loads((run / _FILE).read_text()))
    return {}


def _save(run: Path, known: Mapping[str, Any]) -> None:
    partial = run / f"{_FILE}.partial"
    partial.write_text(json.dumps(known, indent=2))
    partial.replace(run / _FILE)
