"""TorchServe's management API, as far as running a service needs it. Functions raise Problem for what it refuses."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import requests

from densenet.service import authenticated_session
from densenet.service.authenticated_session import TIMEOUT
from densenet.service.torchserve import Service
from export.console import Problem

# TorchServe itself gives a worker 120 seconds to import torch, and by our model-config.yaml 240 to load the model.
LOADING = 360
FROM_A_WORKER = {"customized": "true"}  # has TorchServe put the question to a worker, in a batch of its own
_RACES = ("NullPointerException", "ConcurrentModificationException", "IllegalStateException")


@dataclass(frozen=True)
class Worker:
    """One worker as TorchServe describes it. started: seconds since 1970."""

    id: str
    pid: int
    ready: bool
    started: float


@dataclass(frozen=True)
class Model:
    """One version of the model, with its workers and its queue."""

    version: str
    wanted: int
    most: int
    workers: tuple[Worker, ...]
    queued: int
    room: int
    card: Mapping[str, Any] | None = None

    @property
    def ready(self) -> int:
        """How many workers have loaded the model."""
        return sum(worker.ready for worker in self.workers)


def address(service: Service, version: str | None = None) -> str:
    """Where the management API speaks of a version; None for the default one."""
    return f"{service.management}/models/{service.model}" + (f"/{quote(version, safe='')}" if version else "")


def describe(service: Service, version: str | None = None, *, card: bool = False) -> Model | None:
    """A version, the default one unless named; None where TorchServe does not know it.

    card: whether a worker is asked for the model card as well, which waits in the queue as a prediction does.
    Raises requests.ConnectionError while TorchServe is not listening.
    """
    with authenticated_session.session(service) as http:
        answer = http.get(
            address(service, version),
            params=FROM_A_WORKER if card else None,
            timeout=LOADING if card else TIMEOUT,
        )
    if answer.status_code == requests.codes.not_found:
        return None
    if not answer.ok:
        raise Problem(f"TorchServe does not describe the model: {_words(answer)}")
    return _model(answer.json()[0])


def versions(service: Service) -> list[str]:
    """The versions there are, in no order."""
    with authenticated_session.session(service) as http:
        answer = http.get(f"{service.management}/models/{service.model}/all", timeout=TIMEOUT)
    if not answer.ok:
        raise Problem(f"TorchServe does not list the model's versions: {_words(answer)}")
    return [model["modelVersion"] for model in answer.json()]


def scale(service: Service, least: int, most: int, version: str | None = None) -> None:
    """Asks for at least and at most so many workers, from one up. Fewer than there are end before this returns; more
    may still be loading."""
    wanted = {"min_worker": least, "max_worker": most}
    for there in reversed(range(_count(service, version) + 1)):
        try:
            _ask(service, "PUT", address(service, version), wanted, f"{least} to {most} workers")
            break
        except Stumbled:
            if not there:
                raise


def register(service: Service, file: str) -> None:
    """Registers an archive of the model store; its workers start, and are not waited for."""
    # Its model-config.yaml says how many workers; synchronous is the default, and a failure to load would hang it.
    wanted = {"url": file, "model_name": service.model, "synchronous": "false"}
    _ask(service, "POST", f"{service.management}/models", wanted, f"the archive {file}")


def set_default(service: Service, version: str) -> None:
    """Sends the requests that name no version to this one."""
    url = f"{address(service, version)}/set-default"
    _ask(service, "PUT", url, None, f"version {version} as the default")


def unregister(service: Service, version: str) -> None:
    """Ends a version and its workers at once, whatever they are doing."""
    # TorchServe forgets a version before it ends its workers, and where it stumbles the rest of them are never ended.
    if _count(service, version) > 1:
        scale(service, 1, 1, version)
    try:
        _ask(service, "DELETE", address(service, version), None, f"the end of version {version}")
    except Stumbled:
        if describe(service, version) is not None:
            raise


def _count(service: Service, version: str | None) -> int:
    try:
        model = describe(service, version)
    except requests.RequestException as error:
        raise _silence(service, error) from error
    return len(model.workers) if model else 0


class Stumbled(Problem):
    """TorchServe met an exception of its own while it ended a worker that has a job (BatchAggregator.sendError of
    org.pytorch.serve.wlm): it read the job while the worker's thread put it away, or would put it back into a queue
    that is full. This worker ends all the same, others go on.
    """


def _ask(service: Service, method: str, url: str, params: Mapping[str, str | int] | None, what: str) -> None:
    try:
        with authenticated_session.session(service) as http:
            answer = http.request(method, url, params=params, timeout=LOADING)
    except requests.RequestException as error:
        raise _silence(service, error) from error
    if not answer.ok:
        kind = Stumbled if _told(answer).get("type") in _RACES else Problem
        raise kind(f"TorchServe refused {what}: {_words(answer)}")


def _silence(service: Service, error: requests.RequestException) -> Problem:
    return Problem(f"TorchServe's management API does not answer at {service.management}: {error}")


def _words(answer: requests.Response) -> str:
    return str(_told(answer).get("message") or answer.text.strip() or f"status {answer.status_code}")


def _told(answer: requests.Response) -> Mapping[str, Any]:
    """TorchServe's {"code": …, "type": …, "message": …}; nothing where somebody else answered."""
    try:
        told = answer.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _model(told: Mapping[str, Any]) -> Model:
    workers = (
        Worker(worker["id"], int(worker["pid"]), worker["status"] == "READY", _moment(worker["startTime"]))
        for worker in told["workers"]
    )
    queue = told["jobQueueStatus"]
    return Model(
        version=told["modelVersion"],
        wanted=told["minWorkers"],
        most=told["maxWorkers"],
        workers=tuple(workers),
        queued=queue["pendingRequests"],
        room=queue["remainingCapacity"],
        card=told.get("customizedMetadata"),
    )
