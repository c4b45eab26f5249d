"""TorchServe's management API, as far as starting and scaling need it."""

from dataclasses import dataclass

import requests

from console import Problem
from service.torchserve import Service

# The service is on this machine: no proxy of the environment comes between.
http = requests.Session()
http.trust_env = False

TIMEOUT = 10  # seconds for an answer that involves no loading of a model


@dataclass(frozen=True)
class Workers:
    """How many workers are wanted, and how many have loaded the model."""

    wanted: int
    ready: int


def workers(service: Service) -> Workers | None:
    """The state of the model's workers; None where TorchServe does not know the model.

    Raises requests.ConnectionError while it is not listening yet.
    """
    answer = http.get(f"{service.management}/models/{service.model}", timeout=TIMEOUT)
    if answer.status_code == requests.codes.not_found:
        return None
    answer.raise_for_status()
    model = answer.json()[0]
    ready = sum(worker["status"] == "READY" for worker in model["workers"])
    return Workers(model["minWorkers"], ready)


def scale(service: Service, count: int) -> None:
    """Asks for exactly `count` workers, and returns at once."""
    address = f"{service.management}/models/{service.model}"
    answer = http.put(address, params={"min_worker": count, "max_worker": count}, timeout=TIMEOUT)
    if not answer.ok:
        raise Problem(f"TorchServe refused {count} workers: {answer.text.strip()}")
