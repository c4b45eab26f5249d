"""scripts/stop: stop the services that scripts/serve started from this checkout, and nothing else."""

from typing import Annotated

import typer

from densenet.service import drain, torchserve
from densenet.service.torchserve import Service
from export import console
from export.console import CliError

DrainSeconds = Annotated[float, typer.Option(min=0, help="Seconds for running requests to finish; 0 aborts them.")]


def main(
    port: Annotated[
        int | None, typer.Option(help="Stop only the service on this port. [default: all of this checkout]")
    ] = None,
    drain_seconds: DrainSeconds = drain.SECONDS,
) -> None:
    """Stop the services that scripts/serve started from this checkout, once they have answered running requests."""
    with torchserve.lock():
        services = [service for service in torchserve.running() if port in (None, service.port)]
        for service in services:
            with console.err.status(f"stopping the service on port {service.port}"):
                end(service, drain_seconds)
            console.out.print(f"stopped the service on port {service.port}")
    if not services:
        console.out.print("nothing to stop: no service of this checkout is up" + (f" on port {port}" if port else ""))


def end(service: Service, seconds: float) -> None:
    """Drain a service and stop it; print a line if it could not answer every request in time."""
    try:
        if seconds and service.alive:
            drain.drain(service, seconds)
    except CliError as error:
        console.err.print(f"not all requests were answered: {error}", markup=False)
    finally:
        torchserve.stop(service)
