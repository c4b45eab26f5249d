"""Ending without loss: what has come is answered, what comes is refused with words, then nothing is left to lose."""

import time
from contextlib import suppress

import requests

from console import Problem
from service import barrier, management
from service.torchserve import Service

SECONDS = 30.0  # by default, for what is being worked on
_POLL = 0.02
_SENT = 0.3  # seconds for TorchServe to hand the last answers to their connections
_REFUSALS = 5  # seconds for workers to refuse what is left in the queue


def drain(service: Service, seconds: float) -> None:
    """Answers what came so far and refuses what comes, for good; returns once nothing is waiting.

    seconds: how long a request may still be worked on.
    Raises Problem where one takes longer, or TorchServe cannot be asked; new requests are refused then, too.
    """
    refusing = service.control / "draining"
    try:
        with barrier.held(service, seconds):
            refusing.touch()
        _empty(service)
    except requests.RequestException as error:
        raise Problem(f"TorchServe does not answer at {service.management}") from error
    except OSError as error:
        raise Problem(f"new requests cannot be refused: {error.strerror}: {refusing}") from error
    finally:
        with suppress(OSError):
            refusing.touch()
    time.sleep(_SENT)


def _empty(service: Service) -> None:
    deadline = time.monotonic() + _REFUSALS
    while time.monotonic() < deadline:
        model = management.describe(service)
        if model is None or model.queued == 0:
            return
        time.sleep(_POLL)


def is_draining(service: Service) -> bool:
    """Whether the service refuses new requests because it is about to end."""
    return (service.control / "draining").exists()
