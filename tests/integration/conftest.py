"""Real TorchServes on free ports, serving the archive of a checkpoint that answers differently to every photo."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from densenet.polling import wait_until
from densenet.service import temporary_instance, tokens, torchserve
from densenet.service.properties import Properties
from export import archive as archiving


@dataclass(frozen=True)
class Server:
    """A running service, and what tests ask it."""

    service: torchserve.Service

    @property
    def url(self) -> str:
        return self.service.url

    @property
    def explaining(self) -> str:
        return f"{self.service.inference}/explanations/densenet"

    def post(self, **request: Any) -> requests.Response:
        return requests.post(self.url, timeout=60, **request)

    def send(self, image: bytes, **headers: str) -> requests.Response:
        """One image as raw body."""
        return self.post(data=image, headers={"Content-Type": "application/octet-stream"} | headers)

    def describe(self) -> dict[str, Any]:
        address = f"{self.service.management}/models/densenet"
        model: dict[str, Any] = requests.get(address, params={"customized": "true"}, timeout=60).json()[0]
        return model

    def workers(self) -> set[int]:
        """Process ids of the workers by the operating system, not by TorchServe's word."""
        return {process.pid for process in torchserve.worker_processes(self.service)}

    def log(self) -> str:
        return (Path(self.service.logs) / "model_log.log").read_text(errors="replace")


Starter = Callable[..., Server]


def free_properties(store: Path) -> Properties:
    """config.properties on five free ports, for an archive in that folder."""
    return temporary_instance.on_free_ports(store / "densenet.mar")


def free_port() -> int:
    """The first of five free ports."""
    return free_properties(Path()).port


def wait_for_answer(url: str, photo: bytes, seconds: float) -> requests.Response:
    """The first answer to a photo that is no error."""

    def answer() -> requests.Response | None:
        try:
            return requests.put(url, data=photo, timeout=60)
        except requests.RequestException:
            return None

    response = wait_until(answer, seconds, 0.5)
    assert response is not None
    assert response.ok
    return response


def build_archive(exported: Path, folder: Path, workers: int, **config: Any) -> Path:
    """An archive with some keys of model-config.yaml changed; `handler` is merged."""
    template = yaml.safe_load((archiving.HANDLER / archiving.CONFIG).read_text())
    handler = template["handler"] | config.pop("handler", {})
    path = folder / "model-config.yaml"
    path.write_text(yaml.safe_dump(template | config | {"handler": handler}))
    archiving.build(exported, folder / "densenet.mar", version="1.0", workers=workers, config=path)
    return folder / "densenet.mar"


@dataclass(frozen=True)
class Guarded:
    """A service that asks for tokens, and the keys it wrote down."""

    url: str
    keys: dict[str, str]


@contextmanager
def guarding(archive: Path, folder: Path) -> Iterator[Guarded]:
    """The service of an archive, asking for tokens."""
    with temporary_instance.serving(archive, folder, disable_token_authorization="false") as service:
        content = json.loads(Path(service.folder, tokens.KEY_FILE).read_text())
        yield Guarded(service.url, {name: entry["key"] for name, entry in content.items()})


@contextmanager
def starting(exported: Path, folders: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts servers; all of them end with the block."""
    started: list[ExitStack] = []

    def starter(workers: int = 1, export: Path = exported, **config: Any) -> Server:
        folder = folders.mktemp("server")
        archive = build_archive(export, folder, workers, **config)
        started.append(ExitStack())
        return Server(started[-1].enter_context(temporary_instance.serving(archive, folder)))

    try:
        yield starter
    finally:
        with ThreadPoolExecutor() as ending:
            list(ending.map(ExitStack.close, started))


@pytest.fixture(scope="module")
def start(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts servers that end with the module."""
    with starting(exported, tmp_path_factory) as starter:
        yield starter


@pytest.fixture(scope="session")
def start_once(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts servers that all modules use."""
    with starting(exported, tmp_path_factory) as starter:
        yield starter


@pytest.fixture(scope="session")
def server(start_once: Starter) -> Server:
    """The service as it is by default: two workers, one request at a time each."""
    return start_once(workers=2)


@pytest.fixture(scope="session")
def thorough(start_once: Starter) -> Server:
    """The service with the two settings that decode more carefully than by default, at more cost."""
    return start_once(workers=1, handler={"exact_decoding": True, "apply_colour_profiles": True})


@pytest.fixture(scope="session")
def batching(start_once: Starter) -> Server:
    """One worker that takes up to eight requests at a time, and waits for them."""
    return start_once(workers=1, batchSize=8, maxBatchDelay=300)


def same(answer: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two answers are equal but for the last digits, which depend on what else is in a batch."""
    rest = [{key: value for key, value in one.items() if key != "predictions"} for one in (answer, expected)]
    ids = [[row["class_id"] for row in one["predictions"]] for one in (answer, expected)]
    ours, theirs = ([row["probability"] for row in one["predictions"]] for one in (answer, expected))
    return rest[0] == rest[1] and ids[0] == ids[1] and ours == pytest.approx(theirs, abs=1e-5)
