"""The part of TorchServe's management API that this project uses. Functions raise CliError if TorchServe refuses."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import requests

from densenet.service import authenticated_session
from densenet.service.authenticated_session import TIMEOUT
from densenet.service.torchserve import Service
from export.console import CliError

# TorchServe itself gives a worker 120 seconds to import torch, and by our model-config.yaml 240 to load the model.
LOADING = 360
FROM_A_WORKER = {"customized": "true"}  # makes TorchServe forward the request to a worker, in a batch by itself
_RACE_EXCEPTIONS = ("NullPointerException", "ConcurrentModificationException", "IllegalStateException")


@dataclass(frozen=True)
class Worker:
    """One worker as TorchServe describes it; `started` is in seconds since 1970."""

    id: str
    pid: int
    ready: bool
    started: float


@dataclass(frozen=True)
class Model:
    """One version of the model, with its workers and its queue."""

    version: str
    min_workers: int
    max_workers: int
    batch_size: int
    workers: tuple[Worker, ...]
    queued: int
    queue_capacity: int
    card: Mapping[str, Any] | None = None

    @property
    def ready(self) -> int:
        """The number of workers that have loaded the model."""
        return sum(worker.ready for worker in self.workers)


def address(service: Service, version: str | None = None) -> str:
    """Return the management API's URL of a version; None means the default version."""
    return f"{service.management}/models/{service.model}" + (f"/{quote(version, safe='')}" if version else "")


def describe(
    service: Service, version: str | None = None, *, card: bool = False, seconds: float = LOADING
) -> Model | None:
    """Describe a version, by default the default version; return None if TorchServe does not know it.

    Args:
        card: whether to get the model card from a worker, too; that request waits in the queue like a prediction.
        seconds: how long to wait for the card.

    Raises:
        CliError: if TorchServe refuses, or another program answers.
        requests.ConnectionError: while TorchServe is not listening.
    """
    with authenticated_session.session(service) as http:
        response = http.get(
            address(service, version),
            params=FROM_A_WORKER if card else None,
            timeout=seconds if card else TIMEOUT,
        )
    if not response.ok and "type" not in _error_body(response):
        raise _stranger(service)
    if response.status_code == requests.codes.not_found:
        return None
    if not response.ok:
        raise CliError(f"TorchServe does not describe the model: {_error_message(response)}")
    try:
        return _model(response.json()[0])
    except (ValueError, LookupError, TypeError) as error:
        raise _stranger(service) from error


def describe_default(service: Service) -> Model:
    """Describe the default version.

    Raises:
        CliError: if TorchServe refuses, or has no such model.
    """
    model = describe(service)
    if model is None:
        raise CliError(f"TorchServe has no model {service.model}; see {service.logs}")
    return model


def versions(service: Service) -> list[str]:
    """Return the registered versions, in no particular order."""
    with authenticated_session.session(service) as http:
        response = http.get(f"{service.management}/models/{service.model}/all", timeout=TIMEOUT)
    if not response.ok:
        raise CliError(f"TorchServe does not list the model's versions: {_error_message(response)}")
    return [model["modelVersion"] for model in response.json()]


def scale(service: Service, minimum: int, maximum: int, version: str | None = None) -> None:
    """Set the minimum (1 or more) and maximum number of workers.

    Surplus workers have ended when this returns; new ones may still be loading.
    """
    params = {"min_worker": minimum, "max_worker": maximum}
    for remaining in reversed(range(_count(service, version) + 1)):
        try:
            _send(service, "PUT", address(service, version), params, f"{minimum} to {maximum} workers")
            break
        except TorchServeRaceError:
            if not remaining:
                raise


def register(service: Service, file: str) -> None:
    """Register an archive of the model store, without waiting for its workers to start."""
    # The archive's model-config.yaml sets the number of workers and the batch size. Synchronous registration,
    # TorchServe's default, hangs if the model cannot be loaded.
    params = {"url": file, "model_name": service.model, "synchronous": "false"}
    _send(service, "POST", f"{service.management}/models", params, f"the archive {file}")


def set_default(service: Service, version: str) -> None:
    """Make a version the default: requests that name no version go to it."""
    url = f"{address(service, version)}/set-default"
    _send(service, "PUT", url, None, f"version {version} as the default")


def unregister(service: Service, version: str) -> None:
    """Unregister a version and end its workers at once, even those that are working on a request."""
    # TorchServe removes a version before it ends the workers. If ending one raises, it never ends the others.
    if _count(service, version) > 1:
        scale(service, 1, 1, version)
    try:
        _send(service, "DELETE", address(service, version), None, f"the end of version {version}")
    except TorchServeRaceError:
        if describe(service, version) is not None:
            raise


def _count(service: Service, version: str | None) -> int:
    try:
        model = describe(service, version)
    except requests.RequestException as error:
        raise _unreachable(service, error) from error
    return len(model.workers) if model else 0


class TorchServeRaceError(CliError):
    """TorchServe hit a race of its own while it ended a busy worker; that worker has ended, others still run.

    In BatchAggregator.sendError (org.pytorch.serve.wlm), TorchServe reads the job while the worker's thread removes it,
    or puts the job back into a queue that is full.
    """


def _send(service: Service, method: str, url: str, params: Mapping[str, str | int] | None, what: str) -> None:
    try:
        with authenticated_session.session(service) as http:
            response = http.request(method, url, params=params, timeout=LOADING)
    except requests.RequestException as error:
        raise _unreachable(service, error) from error
    if not response.ok:
        error_type = TorchServeRaceError if _error_body(response).get("type") in _RACE_EXCEPTIONS else CliError
        raise error_type(f"TorchServe refused {what}: {_error_message(response)}")


def _stranger(service: Service) -> CliError:
    return CliError(f"what answers at {service.management} is not TorchServe's management API")


def _unreachable(service: Service, error: requests.RequestException) -> CliError:
    return CliError(f"TorchServe's management API does not answer at {service.management}: {error}")


def _error_message(response: requests.Response) -> str:
    return str(_error_body(response).get("message") or response.text.strip() or f"status {response.status_code}")


def _error_body(response: requests.Response) -> Mapping[str, Any]:
    """Return TorchServe's {"code": …, "type": …, "message": …}, or {} if another program answered."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _model(description: Mapping[str, Any]) -> Model:
    workers = (
        Worker(
            worker["id"],
            int(worker["pid"]),
            worker["status"] == "READY",
            datetime.fromisoformat(worker["startTime"]).timestamp(),
        )
        for worker in description["workers"]
    )
    queue = description["jobQueueStatus"]
    return Model(
        version=description["modelVersion"],
        min_workers=description["minWorkers"],
        max_workers=description["maxWorkers"],
        batch_size=description["batchSize"],
        workers=tuple(workers),
        queued=queue["pendingRequests"],
        queue_capacity=queue["remainingCapacity"],
        card=description.get("customizedMetadata"),
    )
