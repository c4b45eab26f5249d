"""A full disk: the one with the logs, the sockets and the extracted archive."""

import errno
import re
import tempfile
import time
from pathlib import Path
from unittest import mock

from densenet.chaos.environment import small_disk
from densenet.chaos.load import PATIENCE
from densenet.chaos.monitor import healthy, one_worker, within
from densenet.chaos.plan import Fault, Finding, at_least, at_most
from densenet.chaos.scenario import ANSWERS, SOON, Scenario, failed, make_finding, steady
from densenet.service import temporary_instance
from densenet.service.torchserve import Service

_MEGABYTES = 160  # the extracted archive takes 33
_TIME = re.compile(r"^[\d-]+ [\d:,]+ ")
_DONE = (
    f"Logs, sockets and the extracted archive are on a file system of {_MEGABYTES} MB, which is completely "
    "filled. A worker is killed while it is full; then the space is freed."
)


def full(scenario: Scenario) -> Finding:
    """Check that predictions continue and that a killed worker is replaced.

    Raises: Skipped if a small file system cannot be mounted.
    """
    with (
        small_disk(scenario.scratch("full") / "disk", _MEGABYTES) as disk,
        mock.patch.object(tempfile, "tempdir", str(disk)),  # for its sockets and the extracted archive
        temporary_instance.serving(scenario.archive, disk / "run") as service,
        steady(service.inference) as load,
    ):
        injected = time.monotonic()
        filling = disk / "filling"
        _fill(filling)
        load.wait_for_answers(ANSWERS, "while the disk was full")
        alone = failed(load.outcomes)
        victim = one_worker(service)
        victim.kill()
        recovered = within(PATIENCE, lambda: healthy(service, gone=victim.pid))
        load.wait_for_answers(ANSWERS, "while the disk was full")
        filling.unlink()
        access = Path(service.logs) / "access_log.log"
        freed = access.stat().st_size
        load.wait_for_answers(ANSWERS, "after the space was freed")
        logged = access.stat().st_size - freed
        operator = _operator(service)
    result = make_finding(Fault.DISK_FULL, _DONE, load.outcomes, injected, recovered, operator)
    result.checks += [
        at_most("failed requests before the worker was killed", alone, 0),
        at_most("failed requests", failed(load.outcomes), 1),
        at_most("recovery time while the disk is full", result.normal_after, SOON, " s"),
        at_least("bytes logged after the space was freed", logged, 1),
    ]
    return result


def _fill(path: Path) -> None:
    """Write to path until the disk is full."""
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
    lines = dict.fromkeys(_TIME.sub("", line)[:160] for line in console.splitlines() if "No space left" in line)
    return list(lines)[:2]
