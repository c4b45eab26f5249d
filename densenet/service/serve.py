"""scripts/serve: whatever is missing is made, then TorchServe is started and waited for."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from densenet.paths import CONFIG, LOGS, PHOTO, ROOT, RUN
from densenet.service import archive, drain, readiness, torchserve
from densenet.service.archive import Wanted
from densenet.service.properties import Properties
from densenet.service.stop import DrainSeconds, end
from densenet.service.tokens import KEY_FILE
from densenet.service.torchserve import LogFormat, Service
from densenet.service.workers import scale
from export import Precision, console
from export.archive import copy_with_workers
from export.console import Problem

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Weights = Annotated[
    str | None, typer.Option(help="imagenet, untrained or a file. [default: the archive's own, else imagenet]")
]
ClassIndex = Annotated[
    Path | None, typer.Option(help="Class ids and names of a fine-tuned checkpoint.", metavar="FILE")
]
InPrecision = Annotated[
    Precision | None, typer.Option(help="What the network computes in. [default: the archive's own, else fp32]")
]
CalibrationImages = Annotated[
    Path | None, typer.Option(help="Folder of photos like those to be served, for int8.", metavar="DIR")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Workers. [default: one a core]")]
_ports = "Inference; management, metrics and gRPC take the four that follow."
Port = Annotated[int | None, typer.Option(min=1024, max=65531, help=_ports)]
Foreground = Annotated[bool, typer.Option("--foreground", help="Stay; SIGTERM or Ctrl-C drains and stops the service.")]
Config = Annotated[
    Path, typer.Option(help="TorchServe's configuration.", metavar="FILE", show_default="config.properties")
]
Tokens = Annotated[bool, typer.Option("--tokens", help="Ask for tokens, which TorchServe makes at its start.")]
ModelApi = Annotated[
    bool, typer.Option("--model-api", help="Take new versions from scripts/rollout; asks for tokens, too.")
]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Export and archive anew.")]
Logs = Annotated[
    LogFormat | None,
    typer.Option(help="json: every line is an object, and requests.log has one a request. [default: text]"),
]


def main(
    weights: Weights = None,
    class_index: ClassIndex = None,
    precision: InPrecision = None,
    calibration_images: CalibrationImages = None,
    workers: Workers = None,
    port: Port = None,
    foreground: Foreground = False,
    drain_seconds: DrainSeconds = drain.SECONDS,
    config: Config = CONFIG,
    tokens: Tokens = False,
    model_api: ModelApi = False,
    rebuild: Rebuild = False,
    log_format: Logs = None,
) -> None:
    """Serves DenseNet-121 at /predictions/densenet: exports and archives what is missing, starts TorchServe, waits
    until it has answered a photo."""
    for number in _ENDING:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    wanted = Wanted(weights, class_index, precision, calibration_images)
    properties = Properties.read(config)
    properties = properties.on_port(port) if port else properties
    properties = properties.opened(tokens=tokens or model_api, model_api=model_api)
    with torchserve.lock():
        service = next((s for s in torchserve.running() if s.port == properties.port), None)
        if service:
            _check_running(service, wanted, properties, log_format, foreground=foreground, rebuild=rebuild)
            _report(service, _scaled(service, workers), "already up", _how_to_stop(service))
            return
        archive.ensure(properties.archive, wanted, rebuild=rebuild)
        service, ready = _start(_with_workers(properties, workers), properties.archive, log_format or LogFormat.TEXT)
    if foreground:
        _stay(service, ready, drain_seconds)
    else:
        _report(service, ready, "up", _how_to_stop(service))


def _with_workers(properties: Properties, workers: int | None) -> Properties:
    if workers is None:
        return properties
    store = RUN / str(properties.port) / "model_store"
    copy_with_workers(properties.archive, store / properties.archive.name, workers)
    return Properties({**properties.values, "model_store": str(store)})


def _start(properties: Properties, archive: Path, log_format: LogFormat) -> tuple[Service, int]:
    torchserve.check_ports(properties)
    watch = readiness.Watch(LOGS / str(properties.port))
    service = torchserve.start(properties, archive=archive, log_format=log_format)
    try:
        return service, readiness.wait(service, watch)
    except BaseException:
        torchserve.stop(service)
        raise


def _check_running(
    service: Service,
    wanted: Wanted,
    properties: Properties,
    log_format: LogFormat | None,
    *,
    foreground: bool,
    rebuild: bool,
) -> None:
    """Raises Problem for what cannot be had while the service is up; nothing asked for is passed over in silence."""
    runs = Properties.read(Path(service.folder, "config.properties"))
    other = log_format not in (None, service.log_format)
    other |= properties.takes_models and not runs.takes_models
    other |= properties.asks_tokens and not runs.asks_tokens
    if foreground or rebuild or other or not archive.satisfies(service.card, wanted):
        raise Problem(f"the service is already up on port {service.port}; end it first: {_how_to_stop(service)}")


def _scaled(service: Service, workers: int | None) -> int:
    if workers:
        scale(service, workers, workers, drain.SECONDS)
    return readiness.wait(service, readiness.Watch(Path(service.logs)))


def _report(service: Service, ready: int, state: str, stop: str) -> None:
    weights, precision = service.card["weights"]["name"], service.card["precision"]
    console.out.print(f"DenseNet-121 is {state}: {ready} worker(s), weights {weights}, {precision}", markup=False)
    photo = os.path.relpath(PHOTO, ROOT)
    key = Path(service.folder, KEY_FILE)
    needs = [("token", f"the inference key in {key}")] if key.exists() else []
    header = "-H 'Authorization: Bearer TOKEN' " if needs else ""
    for name, text in (
        ("address", service.url),
        ("try", f"curl {header}-T {photo} {service.url}"),
        *(needs or [("page", f"open {service.url} in a browser")]),
        ("logs", service.logs),
        ("stop", stop),
    ):
        console.out.print(f"  {name:8} {text}", markup=False)
    if weights == "untrained":
        console.err.print("WARNING: the weights are untrained; every answer is meaningless")


def _how_to_stop(service: Service) -> str:
    return f"scripts/stop --port {service.port}"


def _stay(service: Service, ready: int, drain_seconds: float) -> None:
    """Reports, and waits for the service's end, or for a signal, which drains and ends it and is no failure."""
    try:
        _report(service, ready, "up", "Ctrl-C or SIGTERM; either drains first")
        torchserve.wait(service)
        with torchserve.lock():
            if torchserve.remembers(service):  # scripts/stop would have made it forgotten
                raise Problem(f"TorchServe ended by itself; see {service.logs}")
    except SystemExit:
        sys.exit(0)
    finally:
        for number in _ENDING:  # told once more, it goes on ending
            signal.signal(number, signal.SIG_IGN)
        with torchserve.lock():
            end(service, drain_seconds)
