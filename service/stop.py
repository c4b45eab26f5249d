"""scripts/stop: ends what scripts/serve started in this checkout, and nothing else."""

from typing import Annotated

import typer

import console
from service import torchserve


def main(
    port: Annotated[
        int | None, typer.Option(help="Only the service on this port. [default: all of this checkout]")
    ] = None,
) -> None:
    """Ends the services that scripts/serve started from this checkout."""
    with torchserve.lock():
        services = [service for service in torchserve.running() if port in (None, service.port)]
        for service in services:
            with console.err.status(f"stopping the service on port {service.port}"):
                torchserve.stop(service)
            console.out.print(f"stopped the service on port {service.port}")
    if not services:
        console.out.print("nothing to stop: no service of this checkout is up" + (f" on port {port}" if port else ""))


if __name__ == "__main__":
    console.run(main, "stop")
