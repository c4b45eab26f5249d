"""Choose batchSize: how many requests a worker takes at once, by measuring the network on this machine.

A batch costs less for each image, but TorchServe forms it without looking at the other workers: within maxBatchDelay
one worker takes what idle ones could have computed. So batches can pay where there is a single worker, and otherwise
only under constant overload, of which the operator knows.
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
from export import processor
from export.archive import read_card, read_config
from export.console import CliError, err
from handler import cores

SIZES = (1, 2, 4, 8)
_FILE = "batches.json"
_SIMILAR = 1.03  # maximum ratio to the least time an image; smaller batches have less latency
_WORTH_IT = 0.95  # maximum ratio to the time of a single image
_TIMEOUT = 60  # seconds; importing torch takes some, and then the measurement two


def choose(times: Mapping[int, float]) -> int:
    """Return the size that pays. times: milliseconds an image, by size; 1 is among them."""
    size = min(size for size, time in times.items() if time <= _SIMILAR * min(times.values()))
    return size if times[size] <= _WORTH_IT * times[1] else 1


def size_for(archive: Path, workers: int | None, run: Path = RUN) -> int | None:
    """Return the batchSize to serve an archive with, or None to leave its model-config.yaml as it is.

    For a single worker, measure a network that was not measured on this processor yet, and print the times. A failure
    only costs the choice.

    workers: the number to start, if it is not the archive's.
    """
    config = read_config(archive)
    several = (workers or config.get("minWorkers")) != 1
    if several or config.get("batchSize") is not None or config.get("deviceType") == "gpu":
        return None
    try:
        times = _times(archive, config, run)
    except (CliError, OSError, ValueError, LookupError, TypeError, AttributeError, SubprocessError) as error:
        err.print(f"batches were not measured, so each request is computed alone: {_reason(error)}", markup=False)
        return None
    size = choose(times)
    err.print(f"batches: {_describe(times)}; batchSize {size}", markup=False)
    return size if size > 1 else None


def _times(archive: Path, config: Mapping[str, Any], run: Path) -> dict[int, float]:
    """Return the milliseconds an image by size: those that are known, or measure them and remember them."""
    machine = f"{cores.physical()} core(s), {processor.name()}"
    settings = config.get("handler") or {}
    chosen = ", ".join(f"{name} {settings.get(name)}" for name in ("threads", "network_batch"))
    key = f"{read_card(archive)['network']['sha256']}, {chosen}, torch {metadata.version('torch')}, {machine}"
    known = _load(run)
    with suppress(LookupError, TypeError, ValueError):  # none yet, or damaged
        return _parse(known[key])
    known[key] = _measure(archive, run)
    _save(run, known)
    return _parse(known[key])


def _parse(times: Mapping[str, float]) -> dict[int, float]:
    return {size: float(times[str(size)]) for size in SIZES}


def _describe(times: Mapping[int, float]) -> str:
    alone, *others = times.items()
    return ", ".join([f"{alone[1]:.1f} ms an image alone", *(f"{time:.1f} by {size}" for size, time in others)])


def _measure(archive: Path, run: Path) -> dict[str, float]:
    """Measure in a process of its own, with the allocator and the environment that workers get."""
    run.mkdir(exist_ok=True)
    command = [str(allocator.python(run)), "-P", "-m", "densenet.service.batch_times", str(archive)]
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
