"""The TorchServe process: started from a configuration, known again later, and ended with all that it started.

Java is run directly rather than through the `torchserve` wrapper: the wrapper does not pass on signals, and its exit
code is 0 however Java ended. Every service has a folder .run/PORT with its configuration and who it is, a folder
logs/PORT, and a folder of its own under the system's temporary one for sockets and extracted models (TorchServe would
delete another instance's socket in a shared one, and socket paths are limited to 107 characters).
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from densenet.paths import LOGS, ROOT, RUN
from densenet.service import java, tokens
from densenet.service.properties import Properties
from export.archive import read_card
from export.console import Problem, err
from handler import DECODER_PROGRAM
from handler.control import VARIABLE

STATE = "service.json"
SERVING = "serving.mar"  # what is in service, whatever becomes of the file it was started from
CA = "DENSENET_CA"  # environment variable: the CA that signed the service's certificate, unless that is its own
STOP_SECONDS = 20  # for Java to end by itself; it takes about four
LOG_FORMAT = "DENSENET_LOG_FORMAT"  # of the environment: read by log4j2.xml, and by the handler

# Those started by this very process, which has to wait for them in the end.
_children: dict[int, "subprocess.Popen[bytes]"] = {}


class LogFormat(StrEnum):
    """How the lines of all logs look."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Service:
    """A TorchServe that was started here: its process (known by its temporary folder) and its places.

    archive: the file that the next start will serve. ca: the file to check its certificate with, where it has one.
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

    @property
    def control(self) -> Path:
        """The folder through which commands and workers speak: handler/control.py."""
        return Path(self.temp, "control")

    @property
    def url(self) -> str:
        """Where images are sent."""
        return f"{self.inference}/predictions/{self.model}"

    def at(self, version: str | None) -> str:
        """Where images are sent for a version; None for the default one."""
        return f"{self.url}/{version}" if version else self.url

    @property
    def alive(self) -> bool:
        """Whether the Java process still runs."""
        return _process(self) is not None


@contextlib.contextmanager
def lock(run: Path = RUN) -> Iterator[None]:
    """One start or stop at a time in this checkout; a second one waits."""
    run.mkdir(exist_ok=True)
    with (run / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            err.print("waiting for another scripts/serve or scripts/stop of this checkout to finish")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def running(run: Path = RUN) -> list[Service]:
    """The services of this checkout that are up, by port; what those that died have left behind is removed."""
    services = [service for path in run.glob(f"*/{STATE}") if (service := _remembered(path))]
    for service in services:
        if not service.alive:
            stop(service, run)
    return sorted((service for service in services if service.alive), key=lambda service: service.port)


def find(port: int | None = None) -> Service:
    """The service on a port, or the only one of this checkout. Raises Problem where there is none, or several."""
    services = [service for service in running() if port in (None, service.port)]
    if len(services) == 1:
        return services[0]
    if services:
        ports = ", ".join(str(service.port) for service in services)
        raise Problem(f"several services of this checkout are up, on ports {ports}; choose one with --port")
    raise Problem("no service of this checkout is up" + (f" on port {port}" if port else "") + "; start scripts/serve")


def remember(service: Service) -> None:
    """Puts a service on record, in place of what is on record for its port."""
    partial = Path(service.folder, f"{STATE}.partial")
    partial.write_text(json.dumps(asdict(service), indent=2))
    partial.replace(Path(service.folder, STATE))


def remembers(service: Service, run: Path = RUN) -> bool:
    """Whether this very service is still on record: nobody has stopped it."""
    recorded = _remembered(run / str(service.port) / STATE)
    return recorded is not None and (recorded.pid, recorded.started) == (service.pid, service.started)


def _remembered(path: Path) -> Service | None:
    try:
        return Service(**{"folder": str(path.parent), **json.loads(path.read_text())})
    except (OSError, ValueError, TypeError):  # none, cut short, or of another version
        return None


def check_ports(properties: Properties) -> None:
    """Raises Problem naming the first port that something else listens on."""
    for host, port in properties.listens:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise Problem(f"port {port} is taken ({error.strerror}); choose others with --port") from error


def start(
    properties: Properties,
    run: Path = RUN,
    logs: Path = LOGS,
    archive: Path | None = None,
    log_format: LogFormat = LogFormat.TEXT,
) -> Service:
    """Starts Java with a configuration and returns at once; nothing is ready yet. Raises Problem.

    archive: the one that what the properties name is a copy of, if it is.
    """
    card = read_card(properties.archive)
    program = java.find()
    folder, logs = _make_folders(properties, run, logs, archive or properties.archive)
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
        )
        remember(service)
    except BaseException:
        process.kill()
        process.wait()
        shutil.rmtree(temp, ignore_errors=True)
        raise
    _children[process.pid] = process
    return service


def _make_folders(properties: Properties, run: Path, logs: Path, archive: Path) -> tuple[Path, Path]:
    """What the service runs in and where it logs, with all that the former holds before a start."""
    folder, logs = run / str(properties.port), logs / str(properties.port)
    for path in (folder, logs):
        path.mkdir(parents=True, exist_ok=True)
    properties.write(folder / "config.properties")
    (folder / tokens.KEY_FILE).unlink(missing_ok=True)  # of an earlier start, which may have asked for tokens
    if properties.takes_models:
        shutil.copyfile(archive, folder / SERVING)
    return folder, logs


def stop(service: Service, run: Path = RUN) -> None:
    """Ends the service and its workers, and removes what it left in the temporary folder."""
    process = _process(service)
    if process is not None:
        everything = [process]
        with contextlib.suppress(psutil.NoSuchProcess):
            everything += process.children(recursive=True)
            process.terminate()
        _, left = psutil.wait_procs(everything, timeout=STOP_SECONDS)
        for survivor in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(left, timeout=STOP_SECONDS)
    for orphan in _orphans(service):
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    if child := _children.pop(service.pid, None):
        child.wait()
    shutil.rmtree(service.temp, ignore_errors=True)
    if remembers(service, run):
        (run / str(service.port) / STATE).unlink()


def worker_processes(service: Service) -> list[psutil.Process]:
    """The workers, by the operating system's word."""
    process = _process(service)
    try:
        below = process.children(recursive=True) if process else []
    except psutil.NoSuchProcess:
        return []
    return [child for child in below if _runs(child, "model_service_worker.py")]


def decoder_processes(worker: psutil.Process) -> list[psutil.Process]:
    """What decodes images for a worker: one process, or none for a moment where one is being replaced.

    Raises psutil.NoSuchProcess where the worker is gone.
    """
    return [child for child in worker.children() if _runs(child, DECODER_PROGRAM)]


def _runs(process: psutil.Process, program: str) -> bool:
    try:
        return any(word.endswith(program) for word in process.cmdline())
    except psutil.Error:
        return False


def private_memory(worker: psutil.Process) -> int:
    """Bytes that a worker and its decoder share with nobody. Raises psutil.NoSuchProcess where the worker is gone."""
    total = int(worker.memory_full_info().uss)
    for decoder in decoder_processes(worker):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += int(decoder.memory_full_info().uss)
    return total


def wait(service: Service) -> int | None:
    """Waits until the service ends; its exit status where it is a child of this process."""
    process = _process(service)
    status: int | None = process.wait() if process else None
    return status


def _launch(
    program: Path, properties: Properties, folder: Path, logs: Path, temp: str, log_format: LogFormat
) -> "subprocess.Popen[bytes]":
    spec = find_spec("ts")
    if spec is None or spec.origin is None:
        raise Problem("torchserve is not installed; run scripts/serve, which installs it")
    home = Path(spec.origin).parents[1]
    command = [
        *(str(program), f"-Dmodel_server_home={home}", _temp_option(temp)),
        # netty's library is loaded from there. The temporary folder may be mounted noexec, as Docker's are: without the
        # library workers would listen on TCP ports that anybody on the machine reaches, and not on sockets.
        f"-Dio.netty.native.workdir={folder}",
        *_vmargs(properties),
        *("-cp", f"{home}/ts/frontend/*", "org.pytorch.serve.ModelServer", "--python", sys.executable),
        *("-f", str(folder / "config.properties"), "-ncs"),
    ]
    # Workers inherit the environment: none of this repository on their path, and their bytecode is kept, since
    # compiling torch anew in every worker triples the time to load it.
    ours = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TS_CONFIG_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"LOG_LOCATION": str(logs), "METRICS_LOCATION": str(logs), "TEMP": temp, LOG_FORMAT: log_format}
    environment[VARIABLE] = str(Path(temp, "control"))
    with (logs / "console.log").open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _vmargs(properties: Properties) -> list[str]:
    """The JVM's options as config.properties has them; a relative log configuration is one of this repository."""
    key = "-Dlog4j.configurationFile="
    arguments = properties.values.get("vmargs", "").split()
    return [f"{key}{ROOT / word.removeprefix(key)}" if word.startswith(key) else word for word in arguments]


def _orphans(service: Service) -> list[psutil.Process]:
    """Workers that outlived Java, known by the folder of their socket: one that hangs does not see Java's end."""
    found = psutil.process_iter(["cmdline"])
    path = f"{service.temp}/.ts.sock."
    return [process for process in found if any(word.startswith(path) for word in process.info["cmdline"] or ())]


def _process(service: Service) -> psutil.Process | None:
    try:
        process = psutil.Process(service.pid)
        # Not by its start time, which moves whenever the machine's clock is put right. A zombie has no words.
        return process if _temp_option(service.temp) in process.cmdline() else None
    except psutil.Error:
        return None


def _temp_option(temp: str) -> str:
    return f"-Djava.io.tmpdir={temp}"
