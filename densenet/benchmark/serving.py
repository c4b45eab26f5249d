"""Serving: from a contender to an address that answers, and to nothing again at the end of the block."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import requests
import yaml

from densenet.benchmark import processes
from densenet.benchmark.convert import Models
from densenet.benchmark.load import Address
from densenet.benchmark.plan import Contender, System
from densenet.paths import IMAGENET_CLASSES
from densenet.service import temporary_instance
from densenet.service.torchserve import Service
from export import CARD, CLASSES, NETWORK, archive
from export.console import Problem

_ARCHIVE = "densenet.mar"
_STARTUP = 120  # seconds for a peer to answer
_TIMEOUT = 60  # seconds for an answer
_http = requests.Session()
_http.trust_env = False  # what is measured is on this machine: no proxy of the environment comes between


@contextmanager
def serve(contender: Contender, models: Models, scratch: Path) -> Iterator[Address]:
    """The contender's service, up and answering. Raises Problem where it does not come up."""
    match contender.system:
        case System.OURS:
            with ours(contender.precision, contender.workers, models, scratch) as service:
                yield Address(service.url)
        case System.STOCK:
            with temporary_instance.serving(
                _stock_archive(models, contender.workers, scratch), scratch / "run"
            ) as service:
                yield Address(service.url)
        case System.FLASK | System.GUNICORN:
            with _tutorial(contender, models, scratch) as url:
                yield Address(url, part="file")
        case _:
            with _lean(contender, models, scratch) as url:
                yield Address(url)


@contextmanager
def ours(precision: str, workers: int, models: Models, scratch: Path) -> Iterator[Service]:
    """This project's service, from an archive and by the code that scripts/serve starts it with."""
    packed = scratch / "store" / _ARCHIVE
    archive.build(models.exported(precision), packed, version="1.0", workers=workers)
    with temporary_instance.serving(packed, scratch / "run") as service:
        yield service


def ask(address: Address, photo: Path) -> requests.Response:
    """One photo, as the load generator sends it."""
    with photo.open("rb") as file:
        if address.part:
            return _http.post(address.url, files={address.part: file}, timeout=_TIMEOUT)
        return _http.post(address.url, data=file, headers={"Content-Type": "image/jpeg"}, timeout=_TIMEOUT)


def best_class(address: Address, photo: Path) -> str:
    """The name of the class that a service puts first; TorchServe's own handler answers {name: probability, …}."""
    response = ask(address, photo)
    response.raise_for_status()
    answer = response.json()
    return str(answer["class_name"] if "class_name" in answer else next(iter(answer)))


def warm_up(address: Address, photos: list[Path], clients: int) -> None:
    """Every photo once, by so many clients, so that each worker has seen some. Raises Problem for a refusal."""
    with ThreadPoolExecutor(clients) as pool:
        for response in pool.map(lambda photo: ask(address, photo), photos):
            if not response.ok:
                raise Problem(f"it refuses a photo with {response.status_code}: {response.text[:200]}")


def _stock_archive(models: Models, workers: int, scratch: Path) -> Path:
    """TorchServe's image_classifier around our TorchScript file; its threads are TorchServe's default."""
    exported, store = models.exported("fp32"), scratch / "store"
    store.mkdir(parents=True, exist_ok=True)
    config = scratch / "model-config.yaml"
    config.write_text(yaml.safe_dump({"minWorkers": workers, "maxWorkers": workers, "deviceType": "cpu"}))
    command = [
        Path(sys.executable).with_name("torch-model-archiver"),
        *("--model-name", Path(_ARCHIVE).stem, "--version", "1.0", "--export-path", store, "--force"),
        *("--serialized-file", exported / NETWORK, "--handler", "image_classifier", "--config-file", config),
        # The card is for our own start, which reads it; the handler does not know it.
        *("--extra-files", f"{exported / CLASSES},{exported / CARD}"),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Problem(f"torch-model-archiver failed: {done.stderr.strip()[-200:]}")
    return store / _ARCHIVE


@contextmanager
def _tutorial(contender: Contender, models: Models, scratch: Path) -> Iterator[str]:
    module = "densenet.benchmark.baselines.flask_tutorial"
    port = str(processes.free_port())
    gunicorn = ("gunicorn", "--workers", str(contender.workers), "--bind", f"127.0.0.1:{port}", f"{module}:app")
    command = (module,) if contender.system is System.FLASK else gunicorn
    environment = {"BENCHMARK_PORT": port, "BENCHMARK_MODEL": str(models.state)}
    with _peer(command, port, scratch, environment) as url:
        yield url


@contextmanager
def _lean(contender: Contender, models: Models, scratch: Path) -> Iterator[str]:
    port = str(processes.free_port())
    app = "densenet.benchmark.baselines.lean_app:app"
    command = ("uvicorn", app, "--host", "127.0.0.1", "--port", port, "--log-level", "warning", "--no-access-log")
    environment = {
        "BENCHMARK_WORKERS": str(contender.workers),
        "BENCHMARK_SYSTEM": contender.system.value,
        "BENCHMARK_PRECISION": contender.precision,
        "BENCHMARK_MODEL": str(models.file(contender.system, contender.precision)),
    }
    with _peer(command, port, scratch, environment) as url:
        yield url


@contextmanager
def _peer(command: tuple[str, ...], port: str, scratch: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a program that answers at /predict."""
    url, log = f"http://127.0.0.1:{port}/predict", scratch / "peer.log"
    everything = environment | {"BENCHMARK_CLASSES": str(IMAGENET_CLASSES)}
    with processes.program(*command, log=log, **everything) as process:
        processes.wait_until(lambda: _listens(url), process, seconds=_STARTUP, log=log)
        # One worker answers; the others may still be loading.
        processes.wait_until_idle(process)
        yield url


def _listens(url: str) -> bool:
    try:
        _http.get(url, timeout=_TIMEOUT)
    except requests.ConnectionError:
        return False
    return True
