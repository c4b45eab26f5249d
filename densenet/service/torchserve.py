"""Start TorchServe's process from a configuration, find it again later, and stop it with everything it started.

Java runs directly rather than through the `torchserve` wrapper, which does not forward signals and exits with 0
whatever Java's exit status is. Every service has a folder .run/PORT with its configuration and state, a folder
logs/PORT, and its own folder in the system's temporary folder for sockets and extracted models. That one is not shared,
because TorchServe would delete another instance's socket, and short, because socket paths are limited to 107
characters.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import psutil

from densenet import processes
from densenet.paths import LOGS, RUN
from densenet.polling import wait_until
from densenet.service import allocator, java, tokens, worker_launcher
from densenet.service.properties import Properties
from export import UNTRAINED
from export.archive import read_card
from export.console import CliError, err
from handler import DECODER_PROGRAM
from handler.worker_control import VARIABLE

STATE = "service.json"
_TRAINED = "trained"  # in .run: an empty file that stays
CA = "DENSENET_CA"  # environment variable: the CA that signed the service's certificate, if it is not self-signed
STOP_SECONDS = 20  # for Java to close its ports after SIGTERM; it takes a moment
LOG_FORMAT = "DENSENET_LOG_FORMAT"  # environment variable that log4j2.xml and the handler read

# OpenMP's threads wait for each other by spinning, by default for milliseconds each time: with another program on one
# of two cores, a pass with two threads took 1.5 s instead of 27 ms. With so few turns it took 27 to 80 ms, and without
# another program no longer than by default.
WAITING = {"GOMP_SPINCOUNT": "5000"}

# The processes that this process started, by pid: it must wait for them, or they would stay zombies.
_children: dict[int, "subprocess.Popen[bytes]"] = {}


class LogFormat(StrEnum):
    """The format of the lines of all logs."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Service:
    """A TorchServe of this checkout: its process (identified by its temporary folder), addresses and folders.

    Attributes:
        archive: the file in the model store that its configuration names; history.py knows what it serves.
        ca: the file to verify the service's certificate with, if it has one.
        heic: whether it accepts HEIC photos.
    """

    pid: int
    started: float
    port: int
    inference: str
    management: str
    model: str
    temp: str
    logs: str
    card: dict[str, Any]
    folder: str = ""
    archive: str = ""
    ca: str | None = None
    log_format: str = LogFormat.TEXT
    heic: bool = False

    @property
    def control(self) -> Path:
        """The folder through which commands and workers communicate: handler/worker_control.py."""
        return Path(self.temp, "control")

    @property
    def url(self) -> str:
        """The URL that clients send images to."""
        return f"{self.inference}/predictions/{self.model}"

    def at(self, version: str | None) -> str:
        """Return the URL to send images to for a version; None means the default version."""
        return f"{self.url}/{version}" if version else self.url

    @property
    def is_ours(self) -> bool:
        """Whether scripts/serve started it: only then is there a control folder."""
        return bool(self.temp)

    @property
    def alive(self) -> bool:
        """Whether the Java process is running; only of a service that scripts/serve started."""
        return _process(self) is not None


def has_heic() -> bool:
    """Return whether a service that is started now accepts HEIC, as handler/decoding.py finds out."""
    return find_spec("pillow_heif") is not None


@contextlib.contextmanager
def lock(run: Path = RUN) -> Iterator[TextIO]:
    """Allow one start or stop at a time in this checkout; a second one waits."""
    run.mkdir(exist_ok=True)
    with (run / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            err.print("waiting for another scripts/serve or scripts/stop of this checkout to finish")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle


@contextlib.contextmanager
def unlocked(handle: TextIO) -> Iterator[None]:
    """Let other commands run for the time of the block. handle: what lock() has returned."""
    fcntl.flock(handle, fcntl.LOCK_UN)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_EX)


def running(run: Path = RUN) -> list[Service]:
    """Return the running services of this checkout, sorted by port; clean up after those that have died."""
    services = [service for path in run.glob(f"*/{STATE}") if (service := _load_state(path))]
    alive = [service for service in services if service.alive]
    for service in services:
        if service not in alive:
            stop(service, run)
    return sorted(alive, key=lambda service: service.port)


def find(port: int | None = None) -> Service:
    """Return the service on a port, or the only one of this checkout.

    Raises:
        CliError: if there is none, or if there are several and no port was given.
    """
    return choose(running(), port)


def choose(candidates: Iterable[Service], port: int | None, several: str = "choose one with --port") -> Service:
    """Return the candidate on a port, or the only one.

    Args:
        several: what to do if there are several and no port was given.

    Raises:
        CliError: if there is none, or if there are several and no port was given.
    """
    services = [service for service in candidates if port in (None, service.port)]
    if len(services) == 1:
        return services[0]
    if services:
        ports = ", ".join(str(service.port) for service in services)
        raise CliError(f"several services of this checkout are up, on ports {ports}; {several}")
    raise CliError("no service of this checkout is up" + (f" on port {port}" if port else "") + "; start scripts/serve")


def save_state(service: Service) -> None:
    """Write the service's state file, replacing any earlier state for its port, and record trained weights for good."""
    if service.card["weights"]["name"] != UNTRAINED:
        Path(service.folder).with_name(_TRAINED).touch()
    partial = Path(service.folder, f"{STATE}.partial")
    partial.write_text(json.dumps(asdict(service), indent=2))
    partial.replace(Path(service.folder, STATE))


def has_served_trained(run: Path = RUN) -> bool:
    """Return whether this checkout has ever started a service with trained weights.

    Neither stopping the service nor removing the archive or the export changes that.
    """
    return (run / _TRAINED).exists()


def is_recorded(service: Service, run: Path = RUN) -> bool:
    """Return whether the state file still describes this service, which means that nobody has stopped it."""
    state = _load_state(run / str(service.port) / STATE)
    return state is not None and (state.pid, state.started) == (service.pid, service.started)


def _load_state(path: Path) -> Service | None:
    try:
        return Service(**{"folder": str(path.parent), **json.loads(path.read_text())})
    except (OSError, ValueError, TypeError):  # the file is missing, truncated, or from another version
        return None


def check_ports(properties: Properties) -> None:
    """Check that TorchServe can bind its ports.

    Raises:
        CliError: with the first port that another program listens on.
    """
    for host, port in properties.listens:
        try:
            processes.check_port(host, port)
        except OSError as error:
            raise CliError(f"port {port} is taken ({error.strerror}); choose others with --port") from error


def start(
    properties: Properties,
    run: Path = RUN,
    logs: Path = LOGS,
    archive: Path | None = None,
    log_format: LogFormat = LogFormat.TEXT,
) -> Service:
    """Start Java with a configuration and return immediately, before the service is ready.

    Args:
        archive: the original archive, if the properties name a copy of it.

    Raises:
        CliError: if the archive cannot be read, or Java or torchserve is not installed.
    """
    card = read_card(properties.archive)
    program = java.find()
    folder, logs = _make_folders(properties, run, logs)
    temp = tempfile.mkdtemp(prefix="torchserve-")
    Path(temp, "control").mkdir()
    try:
        process = _launch(program, properties, folder, logs, temp, log_format)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    try:
        service = Service(
            pid=process.pid,
            started=psutil.Process(process.pid).create_time(),
            port=properties.port,
            inference=properties.inference,
            management=properties.management,
            model=properties.archive.stem,
            temp=temp,
            logs=str(logs),
            card=card,
            folder=str(folder),
            archive=str(archive or properties.archive),
            ca=os.environ.get(CA) or properties.certificate,
            log_format=log_format,
            heic=has_heic(),
        )
        save_state(service)
    except BaseException:
        process.kill()
        process.wait()
        shutil.rmtree(temp, ignore_errors=True)
        raise
    _children[process.pid] = process
    # On a busy machine a process has no command line yet just after its start, and `_process` would not recognize it.
    wait_until(lambda: service.alive or process.poll() is not None, STOP_SECONDS)
    return service


def _make_folders(properties: Properties, run: Path, logs: Path) -> tuple[Path, Path]:
    """Make the folders that the service runs in and logs to, with the files that it needs to start."""
    folder, logs = run / str(properties.port), logs / str(properties.port)
    for path in (folder, logs):
        path.mkdir(parents=True, exist_ok=True)
    properties.write(folder / "config.properties")
    (folder / tokens.KEY_FILE).unlink(missing_ok=True)  # an earlier start may have required tokens
    return folder, logs


def stop(service: Service, run: Path = RUN) -> None:
    """Stop the service and its workers, and remove its temporary folder and state file."""
    process = _process(service)
    if process is not None:
        if _listens(process):
            # It closes its ports at once, and then waits for two seconds for further requests.
            processes.end_when(lambda: not _listens(process), process, STOP_SECONDS)
        else:  # it starts or ends, or its ports are another container's
            processes.end(process, STOP_SECONDS)
    for orphan in worker_processes(service):
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    if child := _children.pop(service.pid, None):
        child.wait()
    shutil.rmtree(service.temp, ignore_errors=True)
    if is_recorded(service, run):
        (run / str(service.port) / STATE).unlink()


def worker_processes(service: Service) -> list[psutil.Process]:
    """Return the worker processes that the operating system lists, whatever TorchServe reports.

    Some may have outlived Java: a worker that hangs does not notice that it has ended. They are identified by the
    folder in their environment. A worker's socket does not identify it: it is a TCP port where TorchServe's Java has no
    native library, as on macOS.
    """
    return [process for process in psutil.process_iter() if _is_worker(process) and _is_of(process, service)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        # Where launchers have this word, it stands further behind.
        return any(word.endswith(allocator.WORKER) for word in process.cmdline()[1:2])
    except psutil.Error:
        return False


def decoder_processes(worker: psutil.Process) -> list[psutil.Process]:
    """Return the processes that decode images for a worker: one, or none while it is being replaced.

    Raises:
        psutil.NoSuchProcess: if the worker has ended.
    """
    return [child for child in worker.children() if _runs(child, DECODER_PROGRAM)]


def _runs(process: psutil.Process, program: str) -> bool:
    try:
        return any(word.endswith(program) for word in process.cmdline())
    except psutil.Error:
        return False


def private_memory(worker: psutil.Process) -> int:
    """Return the bytes of memory that only a worker and its decoder use.

    Where the system tells that only to root, as macOS does, this includes what they share with others.

    Raises:
        psutil.NoSuchProcess: if the worker has ended.
    """
    total = _private_memory(worker)
    for decoder in decoder_processes(worker):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += _private_memory(decoder)
    return total


def _private_memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)


def wait(service: Service) -> int | None:
    """Wait until the service ends; return its exit status if it is a child of this process."""
    process = _process(service)
    status: int | None = process.wait() if process else None
    return status


def _launch(
    program: Path, properties: Properties, folder: Path, logs: Path, temp: str, log_format: LogFormat
) -> "subprocess.Popen[bytes]":
    python = allocator.python(folder, worker_launcher.command(temp))
    spec = find_spec("ts")
    if spec is None or spec.origin is None:
        raise CliError("torchserve is not installed; run scripts/serve, which installs it")
    home = Path(spec.origin).parents[1]
    command = [
        *(str(program), f"-Dmodel_server_home={home}", _temp_option(temp)),
        # netty extracts its native library to this folder and loads it from there, which fails in a temporary folder
        # that is mounted noexec, as Docker's are. Without the library, workers listen on TCP ports that every user of
        # the machine can reach, instead of Unix sockets.
        f"-Dio.netty.native.workdir={folder}",
        *properties.vmargs,
        *("-cp", f"{home}/ts/frontend/*", "org.pytorch.serve.ModelServer"),
        *("--python", str(python), "-f", str(folder / "config.properties"), "-ncs"),
    ]
    # Workers inherit the environment. They must not import from this repository, and they must write bytecode, since
    # compiling torch in every worker triples the time to import it.
    removed = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TS_CONFIG_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"LOG_LOCATION": str(logs), "METRICS_LOCATION": str(logs), "TEMP": temp, LOG_FORMAT: log_format}
    environment = WAITING | environment
    environment[VARIABLE] = str(Path(temp, "control"))
    return processes.start(command, logs / "console.log", environment, folder)


def _is_of(worker: psutil.Process, service: Service) -> bool:
    try:
        return worker.environ().get(VARIABLE) == str(service.control)
    except psutil.Error:
        return False


def _process(service: Service) -> psutil.Process | None:
    try:
        process = psutil.Process(service.pid)
        # Compare the command line, not the start time, which changes whenever the machine's clock is adjusted. The
        # command line of a zombie is empty.
        return process if _temp_option(service.temp) in process.cmdline() else None
    except psutil.Error:
        return None


def _listens(process: psutil.Process) -> bool:
    """Return whether a process accepts connections, as far as the system tells."""
    try:
        return any(connection.status == psutil.CONN_LISTEN for connection in process.connections("tcp"))
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _temp_option(temp: str) -> str:
    return f"-Djava.io.tmpdir={temp}"
