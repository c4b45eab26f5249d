"""Run a temporary TorchServe beside any others, on free ports and in its own folder."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densenet.paths import CONFIG
from densenet.service import readiness, torchserve
from densenet.service.properties import Properties
from densenet.service.torchserve import LogFormat, Service
from export.console import CliError

PORTS = (15000, 30000)  # below the range of ports that the system uses for outgoing connections


def on_free_ports(archive: Path, config: Path = CONFIG, **changes: str) -> Properties:
    """Return a configuration for this archive, on five consecutive free ports.

    Args:
        config: the configuration to start from.
        changes: the settings to change in it.

    Raises:
        CliError: if no five consecutive ports are free.
    """
    values = {**Properties.read(config).values, **changes}
    properties = Properties({**values, "model_store": str(archive.parent), "load_models": archive.name})
    for _ in range(100):
        moved = properties.on_port(random.SystemRandom().randrange(*PORTS))
        try:
            torchserve.check_ports(moved)
        except CliError:
            continue
        return moved
    raise CliError(f"no five consecutive ports are free between {PORTS[0]} and {PORTS[1]}; stop other services first")


@contextmanager
def serving(
    archive: Path, folder: Path, config: Path = CONFIG, log_format: LogFormat = LogFormat.TEXT, **changes: str
) -> Iterator[Service]:
    """Serve an archive during the block.

    Args:
        folder: where the service writes its state and logs.
        config: the configuration to start from.
        changes: the settings to change in it.

    Raises:
        CliError: if the service does not become ready.
    """
    properties = on_free_ports(archive, config, **changes)
    watch = readiness.Watch(folder / "logs" / str(properties.port))
    service = torchserve.start(properties, run=folder, logs=folder / "logs", log_format=log_format)
    try:
        readiness.wait(service, watch)
        yield service
    finally:
        torchserve.stop(service, run=folder)
