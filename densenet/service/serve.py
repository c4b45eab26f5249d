"""scripts/serve: export and pack whatever is missing, start TorchServe and wait until it is ready."""

import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from densenet.paths import CONFIG, LOGS, PHOTO, ROOT, RUN
from densenet.service import (
    archive,
    batches,
    drain,
    history,
    java,
    log_files,
    management,
    readiness,
    systemd,
    torchserve,
)
from densenet.service.archive import WEIGHTS_OPTIONS, ArchiveOptions
from densenet.service.history import Entry
from densenet.service.properties import Properties
from densenet.service.stop import DrainSeconds, end
from densenet.service.tokens import KEY_FILE
from densenet.service.torchserve import LogFormat, Service
from densenet.service.workers import others, scale, warn_of
from export import UNTRAINED, Precision, console, processor
from export.archive import copy_with_settings, is_servable, read_card, read_version, start_settings
from export.console import CliError
from export.evaluation import describe

_OPTIONS = "options.json"
# Measured on two cores of a Xeon with AMX, 2026-11-30.
_FASTER = (
    "this processor has AMX, which fp32 does not use: one image on one thread takes about 45 ms in fp32, "
    "16 in bf16 (--precision auto) and 9.4 in int8"
)
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Weights = Annotated[
    str | None,
    typer.Option(
        help="imagenet, untrained or a file. [default: the archive's own, else imagenet]",
        callback=console.named_weights,
    ),
]
ClassIndex = Annotated[
    Path | None,
    typer.Option(
        help="Class ids and names of a fine-tuned checkpoint.", metavar="FILE", callback=console.existing_file
    ),
]
InPrecision = Annotated[
    Precision | None,
    typer.Option(
        help="Numeric precision of the network; auto: bf16 where the processor has AMX, else fp32. "
        "[default: the archive's own, else fp32]",
        parser=console.precision,
        metavar=console.PRECISIONS,
    ),
]
CalibrationImages = Annotated[
    Path | None,
    typer.Option(
        help="Folder of photos similar to those you serve, for int8.", metavar="DIR", callback=console.existing_folder
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of workers. [default: one per core]")]
_ports = "Inference port; management, metrics and gRPC use the four ports after it."
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Maximum number of requests that a worker takes at once. [default: the archive's own; else measured, at "
        "most 2 for several workers]",
    ),
]
Port = Annotated[int | None, typer.Option(min=1024, max=65531, help=_ports)]
Foreground = Annotated[
    bool, typer.Option("--foreground", help="Keep running; SIGTERM or Ctrl-C drains and stops the service.")
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="TorchServe's configuration.",
        metavar="FILE",
        show_default="config.properties",
        callback=console.existing_file,
    ),
]
Tokens = Annotated[bool, typer.Option("--tokens", help="Require TorchServe's tokens.")]
ModelApi = Annotated[
    bool, typer.Option("--model-api", help="Accept new versions from scripts/rollout; implies --tokens.")
]
Heic = Annotated[
    bool, typer.Option("--heic", help="Accept HEIC, as iPhones store photos; installs pillow-heif (libheif, LGPL).")
]
FromArchive = Annotated[
    Path | None,
    typer.Option(
        "--archive",
        help="Archive to serve. [default: the service's last one, else the model store's]",
        metavar="FILE",
        callback=console.existing_file,
    ),
]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Export and pack the archive again.")]
Logs = Annotated[
    LogFormat | None,
    typer.Option(help="json: write log lines as JSON, and requests.log with a line per request. [default: text]"),
]


def main(
    weights: Weights = None,
    class_index: ClassIndex = None,
    precision: InPrecision = None,
    calibration_images: CalibrationImages = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    port: Port = None,
    foreground: Foreground = False,
    drain_seconds: DrainSeconds = drain.SECONDS,
    config: Config = None,
    tokens: Tokens = False,
    model_api: ModelApi = False,
    rebuild: Rebuild = False,
    heic: Heic = False,
    log_format: Logs = None,
    given: FromArchive = None,
) -> None:
    """Serve DenseNet-121 at /predictions/densenet: export and pack whatever is missing, start TorchServe, and wait
    until it has answered a photo."""
    console.end_on(_STOP_SIGNALS)
    requested = ArchiveOptions(weights, class_index, precision, calibration_images)
    if given and (rebuild or requested != ArchiveOptions()):
        raise CliError("give --archive, or options for an archive to make")
    properties = Properties.read(config or CONFIG)
    properties = properties.on_port(port) if port else properties
    properties = properties.with_access(tokens=tokens or model_api, model_api=model_api)
    if heic and not torchserve.has_heic():
        raise CliError("pillow-heif is not installed; scripts/serve --heic installs it")
    with torchserve.lock():
        service = next((s for s in torchserve.running() if s.port == properties.port), None)
        if service:
            changed = foreground or rebuild or (heic and not service.heic) or not _serves(service, given)
            changed |= batch_size not in (None, management.describe_default(service).batch_size)
            _check_running(service, requested, properties, log_format, changed=changed)
            _report_in_background(service, _scaled(service, workers), "already up")
            warn_of(service, others(service, management.describe_default(service)))
            return
        _check_start(config or CONFIG, properties)
        # Untrained weights are for a first look only: nothing that is meant for production may get them silently.
        plain = requested == ArchiveOptions() and not (foreground or config or tokens or model_api or rebuild)
        fall_back = plain and not torchserve.has_served_trained()
        chosen = given or _choose(properties, requested, rebuild=rebuild, fall_back=fall_back)
        options = {
            f"--config {config}": config,
            "--tokens": tokens or model_api,
            "--model-api": model_api,
            f"--log-format {log_format}": log_format,
        }
        name_missing_options(RUN / str(properties.port), [option for option, given_now in options.items() if given_now])
        service, ready = _start(properties, chosen, workers, batch_size, log_format or LogFormat.TEXT)
    if foreground:
        _run_in_foreground(service, ready, drain_seconds)
    else:
        _report_in_background(service, ready, "up")


def name_missing_options(folder: Path, options: Sequence[str]) -> None:
    """Print which options of the service's last start this one lacks, and remember this one's.

    A service keeps its archive, but not these options: one that is forgotten would quietly change who may do what.
    """
    path = folder / _OPTIONS
    with suppress(OSError, ValueError):
        before = json.loads(path.read_text())
        if missing := [option for option in before if option not in options]:
            console.err.print(f"the last start on this port had {' '.join(missing)}; this one does not", markup=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(options))


def _check_start(config: Path, properties: Properties) -> None:
    """Check before an export, which takes a minute, what a start needs: files, ports and Java.

    Raises:
        CliError: names what is missing.
    """
    properties.check_paths(config)
    torchserve.check_ports(properties)
    java.find()


def _choose(properties: Properties, requested: ArchiveOptions, *, rebuild: bool, fall_back: bool) -> Path:
    """Return the archive to serve: the one that was last in service on this port, unless an option asks for another.

    The model store's archive is not the service's own, since every service and scripts/archive write there.

    Raises:
        CliError: if an archive cannot be read, or an option would change the weights without naming them.
    """
    common, folder = properties.archive, RUN / str(properties.port)
    past = history.load(folder)
    own, named = past.serving, replace(requested, version=past.next_version())
    if own is None or (common.exists() and _is_own(folder, common, own)):
        archive.ensure(common, named, rebuild=rebuild, fall_back=fall_back)
        return common
    if rebuild or requested != ArchiveOptions():
        if requested.weights is None:
            named = _with_weights_of(history.file(folder, own), common, named)
        archive.ensure(common, named, rebuild=rebuild)
        return common
    kept, port = history.file(folder, own), properties.port
    again = f"scripts/serve --port {port} --archive {os.path.relpath(common)}"
    other = f"; {_describe(common)}: {again} would serve it" if common.exists() else ""
    console.err.print(f"the service on port {port} keeps {own}{other}", markup=False)
    return kept


def _is_own(folder: Path, common: Path, own: Entry) -> bool:
    """Return whether the model store's archive is the service's own, or the same network packed for a failed start."""
    digest = history.digest(common)
    return digest == own.digest or (
        history.was_tried(folder, digest) and read_card(common) == read_card(history.file(folder, own))
    )


def _with_weights_of(own: Path, common: Path, requested: ArchiveOptions) -> ArchiveOptions:
    """Add the service's own weights to the request, if the archive that it starts from has others."""
    weights = read_card(own)["weights"]
    if common.exists() and read_card(common)["weights"]["sha256"] == weights["sha256"]:
        return requested
    if weights["name"] not in WEIGHTS_OPTIONS:
        raise CliError(
            f"the service was started with the weights file {weights['name']}; name it again: --weights FILE"
        )
    return replace(requested, weights=WEIGHTS_OPTIONS[weights["name"]])


def _describe(path: Path) -> str:
    try:
        return f"{path} is version {read_version(path)}, weights {read_card(path)['weights']['name']}"
    except CliError:
        return f"{path} is damaged"


def _serves(service: Service, given: Path | None) -> bool:
    serving = history.load(Path(service.folder)).serving
    return given is None or (serving is not None and history.digest(given) == serving.digest)


def _with_archive(properties: Properties, chosen: Path, settings: Mapping[str, int]) -> Properties:
    """Return a configuration that serves this archive, which keeps the model's name, with other settings."""
    if not settings and chosen.absolute() == properties.archive:
        return properties
    store = RUN / str(properties.port) / "model_store"
    if settings:
        copy_with_settings(chosen, store / properties.archive.name, settings)
    else:
        store.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(chosen, store / properties.archive.name)
    return Properties({**properties.values, "model_store": str(store)})


def _start(
    properties: Properties, chosen: Path, workers: int | None, batch_size: int | None, log_format: LogFormat
) -> tuple[Service, int]:
    folder = RUN / str(properties.port)
    entry = history.keep(folder, chosen)
    torchserve.check_ports(properties)
    log_files.set_aside(LOGS / str(properties.port), log_format)
    if not is_servable(read_card(chosen)):
        raise CliError(
            f"{entry} was made by an older export; choose with --weights what to serve on port {properties.port}"
        )
    watch = readiness.Watch(LOGS / str(properties.port))
    settings = start_settings(workers, batch_size or batches.size_for(chosen, workers))
    served = _with_archive(properties, chosen, settings)
    service = torchserve.start(served, archive=properties.archive, log_format=log_format)
    try:
        ready = readiness.wait(service, watch)
        _record(folder, entry)
        return service, ready
    except BaseException:
        torchserve.stop(service)
        raise


def _record(folder: Path, entry: Entry) -> None:
    history.save(folder, history.load(folder).with_serving(entry))
    history.clean(folder)


def _check_running(
    service: Service,
    requested: ArchiveOptions,
    properties: Properties,
    log_format: LogFormat | None,
    *,
    changed: bool,
) -> None:
    """Check that the running service already has everything that the options request.

    Raises:
        CliError: if an option needs a restart, so that none is ignored silently.
    """
    current = Properties.read(Path(service.folder, "config.properties"))
    changed |= log_format not in (None, service.log_format)
    changed |= properties.model_api_enabled and not current.model_api_enabled
    changed |= properties.requires_tokens and not current.requires_tokens
    if changed or not archive.satisfies(service.card, requested):
        raise CliError(f"the service is already up on port {service.port}; stop it first: {_how_to_stop(service)}")


def _scaled(service: Service, workers: int | None) -> int:
    if workers:
        scale(service, workers, workers, drain.SECONDS)
    return readiness.wait(service, readiness.Watch(Path(service.logs)))


def _report(service: Service, ready: int, state: str, stop: str) -> None:
    weights, precision = service.card["weights"]["name"], service.card["precision"]
    console.out.print(f"DenseNet-121 is {state}: {ready} worker(s), {describe(service.card)}", markup=False)
    key = Path(service.folder, KEY_FILE)
    token = [("token", f"the inference key in {key}")] if key.exists() else []
    for name, text in (
        ("address", service.url),
        ("try", _example(service)),
        *(token or [("page", f"open {service.url} in a browser")]),
        ("logs", service.logs),
        ("stop", stop),
    ):
        console.out.print(f"  {name:8} {text}", markup=False)
    if precision == Precision.FP32 and processor.suitable_precision(processor.flags()) is Precision.BF16:
        console.err.print(_FASTER, markup=False)
    if weights == UNTRAINED:
        console.err.print("WARNING: the weights are untrained; every answer is meaningless")


def _example(service: Service) -> str:
    """Return a command for a shell in the current folder that sends a photo, with all that the service requires."""
    words = ["curl"]
    key = Path(service.folder, KEY_FILE)
    if key.exists():
        program = 'import json, sys; print(json.load(open(sys.argv[1]))["inference"]["key"])'
        words.append(f'-H "Authorization: Bearer $({shlex.join([sys.executable, "-c", program, str(key)])})"')
    if service.ca and service.url.startswith("https:"):
        words += ["--cacert", shlex.quote(str(Path(service.ca).absolute()))]
    photo = PHOTO.relative_to(ROOT) if Path.cwd() == ROOT.resolve() else PHOTO
    return " ".join([*words, "-T", shlex.quote(str(photo)), shlex.quote(service.url)])


def _report_in_background(service: Service, ready: int, state: str) -> None:
    _report(service, ready, state, _how_to_stop(service))
    if service.card["weights"]["name"] == UNTRAINED:
        again = f"scripts/serve --port {service.port} --weights"
        console.err.print("To get real answers:", _how_to_stop(service), "and then one of", markup=False)
        console.err.print(f"  {again} imagenet  once there is a network, or the file is in a cache", markup=False)
        console.err.print(f"  {again} FILE      with a checkpoint of DenseNet-121: .pth or .safetensors", markup=False)


def _how_to_stop(service: Service) -> str:
    return f"scripts/stop --port {service.port}"


def _run_in_foreground(service: Service, ready: int, drain_seconds: float) -> None:
    """Print the report and wait until the service ends or a signal arrives, which drains and stops the service.

    Raises:
        CliError: if TorchServe ends although nobody stopped it.
        SystemExit: with status 0, after a signal.
    """
    try:
        _report(service, ready, "up", "Ctrl-C or SIGTERM; either drains first")
        systemd.notify(systemd.READY)
        torchserve.wait(service)
        with torchserve.lock():
            if torchserve.is_recorded(service):  # scripts/stop would have removed the record
                raise CliError(f"TorchServe exited unexpectedly; see {service.logs}")
    except SystemExit:
        sys.exit(0)
    finally:
        for number in _STOP_SIGNALS:  # a second signal must not interrupt the draining
            signal.signal(number, signal.SIG_IGN)
        systemd.notify(systemd.STOPPING)
        with torchserve.lock():
            end(service, drain_seconds)
