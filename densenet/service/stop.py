"""scripts/stop: stop the services that scripts/serve started from this checkout, and nothing else."""

from typing import Annotated

import typer

from densenet.paths import ROOT
from densenet.service import drain, lookup, torchserve
from densenet.service.lookup import PortOption
from densenet.service.torchserve import Service
from export import console
from export.console import CliError

DrainSeconds = Annotated[float, typer.Option(min=0, help="Seconds for running requests to finish; 0 aborts them.")]


def main(
    port: PortOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Stop all services of this checkout.")] = False,
    drain_seconds: DrainSeconds = drain.SECONDS,
) -> None:
    """Stop the service that scripts/serve started from this checkout, once it has answered running requests."""
    if port and everything:
        raise CliError("--port stops one service and --all stops all; give one of them")
    with torchserve.lock():
        services = [service for service in torchserve.running() if port in (None, service.port)]
        if len(services) > 1 and not everything:
            torchserve.choose(services, port, "choose one with --port, or stop them with --all")
        for service in services:
            with console.err.status(f"stopping the service on port {service.port}"):
                end(service, drain_seconds)
            console.out.print(f"stopped the service on port {service.port}")
    if everything or not services:
        _check_plain(port)
    if not services:
        console.out.print("nothing to stop: no service of this checkout is up" + (f" on port {port}" if port else ""))


def _check_plain(port: int | None) -> None:
    """Check that nothing is left that only TorchServe's own command stops, which cuts requests off.

    Raises:
        CliError: if such a service is up; the message says how to stop it.
    """
    ports = [str(service.port) for service in lookup.started_without_us() if port in (None, service.port)]
    if ports:
        raise CliError(
            f"the service on port {', '.join(ports)} was started by torchserve --start; to stop it: "
            f"cd {ROOT} && . .venv/bin/activate && torchserve --stop"
        )


def end(service: Service, seconds: float) -> None:
    """Drain a service and stop it; print a line if it could not answer every request in time."""
    try:
        if seconds and service.alive:
            drain.drain(service, seconds)
    except CliError as error:
        console.err.print(f"not all requests were answered: {error}", markup=False)
    finally:
        torchserve.stop(service)
