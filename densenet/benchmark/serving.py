"""Start a served system for the duration of a block and yield its address."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests
import yaml

from densenet import processes
from densenet.benchmark.convert import Models
from densenet.benchmark.load import Address
from densenet.benchmark.plan import ServedSystem, System
from densenet.paths import IMAGENET_CLASSES
from densenet.service import temporary_instance
from densenet.service.torchserve import Service
from export import CARD, CLASSES, NETWORK, archive
from export.console import CliError

_ARCHIVE = "densenet.mar"
_STARTUP = 120  # seconds for a baseline to answer
_TIMEOUT = 60  # seconds for an answer
_http = requests.Session()
_http.trust_env = False  # the services are local, so proxies set in the environment must not be used


@contextmanager
def serve(served: ServedSystem, models: Models, scratch: Path) -> Iterator[Address]:
    """Start the system's service and yield its address.

    Raises: CliError if it does not start.
    """
    match served.system:
        case System.OURS:
            with ours(served.precision, served.workers, models, scratch) as service:
                yield Address(service.url)
        case System.STOCK:
            with temporary_instance.serving(
                _stock_archive(models, served.workers, scratch), scratch / "run"
            ) as service:
                yield Address(service.url)
        case System.FLASK | System.GUNICORN:
            with _tutorial(served, models, scratch) as url:
                yield Address(url, part="file")
        case _:
            with _lean(served, models, scratch) as url:
                yield Address(url)


@contextmanager
def ours(precision: str, workers: int, models: Models, scratch: Path) -> Iterator[Service]:
    """Start this project's service from an archive, with the code of scripts/serve."""
    packed = scratch / "store" / _ARCHIVE
    archive.build(models.exported(precision), packed, version="1.0", workers=workers)
    with temporary_instance.serving(packed, scratch / "run") as service:
        yield service


def send(address: Address, photo: Path) -> requests.Response:
    """Send one photo in the same form as the load generator."""
    with photo.open("rb") as file:
        if address.part:
            return _http.post(address.url, files={address.part: file}, timeout=_TIMEOUT)
        return _http.post(address.url, data=file, headers={"Content-Type": "image/jpeg"}, timeout=_TIMEOUT)


def best_class(address: Address, photo: Path) -> str:
    """Return the name of a service's best class. TorchServe's own handler answers {name: probability, …}."""
    response = send(address, photo)
    response.raise_for_status()
    answer = response.json()
    return str(answer["class_name"] if "class_name" in answer else next(iter(answer)))


def warm_up(address: Address, photos: list[Path], clients: int) -> None:
    """Send every photo once from several clients, so that each worker processes some.

    Raises: CliError if the service rejects a photo.
    """
    with ThreadPoolExecutor(clients) as pool:
        for response in pool.map(lambda photo: send(address, photo), photos):
            if not response.ok:
                raise CliError(f"the service rejects a photo with {response.status_code}: {response.text[:200]}")


def _stock_archive(models: Models, workers: int, scratch: Path) -> Path:
    """Pack TorchServe's image_classifier with our TorchScript file and TorchServe's default threads."""
    exported, store = models.exported("fp32"), scratch / "store"
    store.mkdir(parents=True, exist_ok=True)
    config = scratch / "model-config.yaml"
    config.write_text(yaml.safe_dump({"minWorkers": workers, "maxWorkers": workers, "deviceType": "cpu"}))
    command = [
        Path(sys.executable).with_name("torch-model-archiver"),
        *("--model-name", Path(_ARCHIVE).stem, "--version", "1.0", "--export-path", store, "--force"),
        *("--serialized-file", exported / NETWORK, "--handler", "image_classifier", "--config-file", config),
        # Our start command reads the card; TorchServe's handler ignores it.
        *("--extra-files", f"{exported / CLASSES},{exported / CARD}"),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CliError(f"torch-model-archiver failed: {done.stderr.strip()[-200:]}")
    return store / _ARCHIVE


@contextmanager
def _tutorial(served: ServedSystem, models: Models, scratch: Path) -> Iterator[str]:
    module = "densenet.benchmark.baselines.flask_tutorial"
    port = str(processes.free_port())
    gunicorn = ("gunicorn", "--workers", str(served.workers), "--bind", f"127.0.0.1:{port}", f"{module}:app")
    command = (module,) if served.system is System.FLASK else gunicorn
    environment = {"BENCHMARK_PORT": port, "BENCHMARK_MODEL": str(models.state)}
    with _baseline(command, port, scratch, environment) as url:
        yield url


@contextmanager
def _lean(served: ServedSystem, models: Models, scratch: Path) -> Iterator[str]:
    port = str(processes.free_port())
    app = "densenet.benchmark.baselines.lean_app:app"
    command = ("uvicorn", app, "--host", "127.0.0.1", "--port", port, "--log-level", "warning", "--no-access-log")
    environment = {
        "BENCHMARK_WORKERS": str(served.workers),
        "BENCHMARK_SYSTEM": served.system.value,
        "BENCHMARK_PRECISION": served.precision,
        "BENCHMARK_MODEL": str(models.file(served.system, served.precision)),
    }
    with _baseline(command, port, scratch, environment) as url:
        yield url


@contextmanager
def _baseline(command: tuple[str, ...], port: str, scratch: Path, environment: dict[str, str]) -> Iterator[str]:
    """Start a program that answers at /predict and yield that URL."""
    url, log = f"http://127.0.0.1:{port}/predict", scratch / "baseline.log"
    everything = os.environ | environment | {"BENCHMARK_CLASSES": str(IMAGENET_CLASSES)}
    with processes.running([sys.executable, "-m", *command], log, everything) as process:
        processes.wait_until_ready(lambda: _listens(url), process, seconds=_STARTUP, log=log)
        # The first answer comes from one worker; the others may still be loading.
        processes.wait_until_idle(psutil.Process(process.pid))
        yield url


def _listens(url: str) -> bool:
    try:
        _http.get(url, timeout=_TIMEOUT)
    except requests.ConnectionError:
        return False
    return True
