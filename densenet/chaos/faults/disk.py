"""The disk is full: the one that logs, sockets and the extracted archive are on."""

import errno
import re
import time
from pathlib import Path

from densenet.chaos import load as loading
from densenet.chaos.environment import small_disk, temporary_folders_in
from densenet.chaos.monitor import one_worker, whole, within
from densenet.chaos.plan import Fault, Finding, at_least, at_most
from densenet.chaos.scenario import BEFORE, PATIENCE, SOON, Scene, failed, finding, steady
from densenet.service import temporary_instance
from densenet.service.torchserve import Service
from export.console import Problem

_MEGABYTES = 160  # the extracted archive takes 33
_TIME = re.compile(r"^[\d-]+ [\d:,]+ ")
_DONE = (
    f"Logs, sockets and the extracted archive are on a file system of {_MEGABYTES} MB, which is filled to the last "
    "byte; a worker is killed meanwhile; then there is room again."
)


def full(scene: Scene) -> Finding:
    """Predictions go on, and so does the replacing of workers. Raises Skipped where nothing can be mounted."""
    with (
        small_disk(scene.scratch("full") / "disk", _MEGABYTES) as disk,
        temporary_folders_in(disk),
        temporary_instance.serving(scene.archive, disk / "run") as service,
        steady(service.inference) as load,
    ):
        injected = time.monotonic()
        filling = disk / "filling"
        _fill(filling)
        _answers(load)
        alone = failed(load.outcomes)
        victim = one_worker(service)
        victim.kill()
        recovered = within(PATIENCE, lambda: whole(service, gone=victim.pid))
        _answers(load)
        filling.unlink()
        access = Path(service.logs) / "access_log.log"
        freed = access.stat().st_size
        _answers(load)
        logged = access.stat().st_size - freed
        operator = _operator(service)
    found = finding(Fault.DISK_FULL, _DONE, load.outcomes, injected, recovered, operator)
    found.checks += [
        at_most("failed requests before the worker was killed", alone, 0),
        at_most("failed requests", failed(load.outcomes), 1),
        at_most("until normal, with the disk still full", found.normal_after, SOON, " s"),
        at_least("bytes logged once there was room again", logged, 1),
    ]
    return found


def _answers(load: loading.Load) -> None:
    if not loading.wait_for_answers(load, BEFORE, PATIENCE):
        raise Problem(f"clients had fewer than {BEFORE} answers within {PATIENCE} seconds while the disk was full")


def _fill(path: Path) -> None:
    """Writes until nothing more can be written."""
    block = bytes(1 << 16)
    with path.open("wb", buffering=0) as file:
        while block:
            try:
                file.write(block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                block = block[: len(block) // 2]


def _operator(service: Service) -> list[str]:
    console = (Path(service.logs) / "console.log").read_text(errors="replace")
    found = dict.fromkeys(_TIME.sub("", line)[:160] for line in console.splitlines() if "No space left" in line)
    return list(found)[:2]
