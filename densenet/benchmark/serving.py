"""Start a served system for the duration of a block and yield its address."""

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import requests
import yaml

from densenet import processes
from densenet.benchmark.convert import Models
from densenet.benchmark.load import Address
from densenet.benchmark.plan import ServedSystem, System
from densenet.paths import IMAGENET_CLASSES
from densenet.service import batches, temporary_instance
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
    with ExitStack() as stack:
        if served.system is System.OURS:
            yield Address(stack.enter_context(ours(served.precision, served.workers, models, scratch)).url)
        elif served.system is System.STOCK:
            packed = _stock_archive(models, served.workers, scratch)
            yield Address(stack.enter_context(temporary_instance.serving(packed, scratch / "run")).url)
        else:
            url = stack.enter_context(_baseline(served, models, scratch))
            yield Address(url, part="file" if served.system in (System.FLASK, System.GUNICORN) else None)


@contextmanager
def ours(precision: str, workers: int, models: Models, scratch: Path) -> Iterator[Service]:
    """Start this project's service from an archive, with the code and the batch size of scripts/serve."""
    packed = scratch / "store" / _ARCHIVE
    pack = functools.partial(archive.build, models.exported(precision), packed, version="1.0", workers=workers)
    pack()
    pack(batch_size=batches.size_for(packed, workers, models.folder))
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
def _baseline(served: ServedSystem, models: Models, scratch: Path) -> Iterator[str]:
    """Start a program that answers at /predict and yield that URL."""
    port = str(processes.free_port())
    tutorial, lean = ("densenet.benchmark.baselines." + name for name in ("flask_tutorial", "lean_app:app"))
    command = {
        System.FLASK: (tutorial,),
        System.GUNICORN: ("gunicorn", f"--workers={served.workers}", f"--bind=127.0.0.1:{port}", f"{tutorial}:app"),
    }.get(served.system, ("uvicorn", lean, f"--port={port}", "--log-level=warning", "--no-access-log"))
    environment = {
        "BENCHMARK_CLASSES": str(IMAGENET_CLASSES),
        "BENCHMARK_MODEL": str(models.file(served.system, served.precision)),
        "BENCHMARK_PORT": port,
        "BENCHMARK_PRECISION": served.precision,
        "BENCHMARK_SYSTEM": served.system.value,
        "BENCHMARK_WORKERS": str(served.workers),
    }
    url, log = f"http://127.0.0.1:{port}/predict", scratch / "baseline.log"
    with processes.running([sys.executable, "-m", *command], log, os.environ | environment) as process:
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
