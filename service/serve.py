"""scripts/serve: whatever is missing is made, then TorchServe is started and waited for."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

import console
from console import Problem
from export import ROOT
from export.archive import read_card
from service import archive, management, readiness, torchserve
from service.properties import Properties
from service.torchserve import Service


def main(
    weights: Annotated[
        str | None,
        typer.Option(help="imagenet, untrained or a file. [default: the archive's own, else imagenet]"),
    ] = None,
    class_index: Annotated[
        Path | None, typer.Option(help="Class ids and names of a fine-tuned checkpoint.", metavar="FILE")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers. [default: one a core]")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1024, max=65531, help="Inference; management, metrics and gRPC take the four that follow."),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay; SIGTERM or Ctrl-C stops the service.")
    ] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Export and archive anew.")] = False,
) -> None:
    """Serves DenseNet-121 at /predictions/densenet: exports and archives what is missing, starts TorchServe, waits
    until it has answered a photo."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    properties = Properties.read(ROOT / "config.properties")
    properties = properties.on_port(port) if port else properties
    with torchserve.lock():
        service = next((s for s in torchserve.running() if s.port == properties.port), None)
        if service:
            _check_running(service, properties, weights, class_index, foreground=foreground, rebuild=rebuild)
            _report(service, properties, _scaled(service, workers), "already up")
            return
        card = archive.ensure(properties.archive, weights, class_index, rebuild=rebuild)
        service, ready = _start(properties, workers)
    _report(service, properties, ready, "up")
    if card["weights"]["name"] == "untrained":
        console.err.print("WARNING: the weights are untrained; every answer is meaningless")
    if foreground:
        _stay(service)


def _start(properties: Properties, workers: int | None) -> tuple[Service, int]:
    torchserve.check_ports(properties)
    watch = readiness.Watch(torchserve.LOGS / str(properties.port))
    service = torchserve.start(properties)
    try:
        return service, readiness.wait(service, watch, workers)
    except BaseException:
        torchserve.stop(service)
        raise


def _check_running(
    service: Service,
    properties: Properties,
    weights: str | None,
    class_index: Path | None,
    *,
    foreground: bool,
    rebuild: bool,
) -> None:
    """Raises Problem for what cannot be had while the service is up; nothing asked for is passed over in silence."""
    other = (weights or class_index) and not archive.satisfies(read_card(properties.archive), weights, class_index)
    if foreground or rebuild or other:
        raise Problem(f"the service is already up on port {service.port}; end it first: scripts/stop")


def _scaled(service: Service, workers: int | None) -> int:
    if workers:
        return readiness.wait(service, readiness.Watch(Path(service.logs)), workers)
    state = management.workers(service)
    return state.ready if state else 0


def _report(service: Service, properties: Properties, ready: int, state: str) -> None:
    weights = read_card(properties.archive)["weights"]["name"]
    console.out.print(f"DenseNet-121 is {state}: {ready} worker(s), weights {weights}", markup=False)
    photo = readiness.PHOTO.relative_to(ROOT)
    for name, text in (
        ("address", service.url),
        ("try", f"curl -T {photo} {service.url}"),
        ("page", f"open {service.url} in a browser"),
        ("logs", service.logs),
        ("stop", "scripts/stop" if service.port == 8080 else f"scripts/stop --port {service.port}"),
    ):
        console.out.print(f"  {name:8} {text}", markup=False)


def _stay(service: Service) -> None:
    """Waits for the service's end, or for a signal, which ends it."""
    try:
        torchserve.wait(service)
    except KeyboardInterrupt:
        return
    finally:
        ended_by_itself = not service.alive
        torchserve.stop(service)
    if ended_by_itself:
        raise Problem(f"TorchServe ended by itself; see {service.logs}")


if __name__ == "__main__":
    console.run(main, "serve")
