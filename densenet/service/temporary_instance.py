"""A service apart: one more TorchServe beside what else runs, on ports that nothing uses, in a folder of its own."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densenet.paths import CONFIG
from densenet.service import readiness, torchserve
from densenet.service.properties import Properties
from densenet.service.torchserve import LogFormat, Service
from export.console import Problem

PORTS = (15000, 30000)  # below the range that outgoing connections use


def on_free_ports(archive: Path, config: Path = CONFIG, **changes: str) -> Properties:
    """A configuration with this archive and some values changed, on five ports in a row that are free. Raises Problem
    where none are."""
    values = {**Properties.read(config).values, **changes}
    properties = Properties({**values, "model_store": str(archive.parent), "load_models": archive.name})
    for _ in range(100):
        moved = properties.on_port(random.SystemRandom().randrange(*PORTS))
        try:
            torchserve.check_ports(moved)
        except Problem:
            continue
        return moved
    raise Problem("there are no five free ports in a row")


@contextmanager
def serving(
    archive: Path, folder: Path, config: Path = CONFIG, log_format: LogFormat = LogFormat.TEXT, **changes: str
) -> Iterator[Service]:
    """The service of an archive, ready until the end of the block; the folder is for what it writes. Raises Problem.

    config, changes: its configuration, and what is different in it.
    """
    properties = on_free_ports(archive, config, **changes)
    watch = readiness.Watch(folder / "logs" / str(properties.port))
    service = torchserve.start(properties, run=folder, logs=folder / "logs", log_format=log_format)
    try:
        readiness.wait(service, watch)
        yield service
    finally:
        torchserve.stop(service, run=folder)
