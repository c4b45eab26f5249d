"""Ending without loss: what has come is answered, what comes is refused with words, then nothing is left to lose."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import requests

from densenet.service import management, quiesce
from densenet.service.torchserve import Service
from export.console import Problem
from handler import control

SECONDS = 30.0  # by default, for what is being worked on
_POLL = 0.02
_SENT = 0.3  # seconds for TorchServe to hand the last answers to their connections
_REFUSALS = 5  # seconds for workers to refuse what is left in the queue


def drain(service: Service, seconds: float) -> None:
    """Answers what came so far and refuses what comes, for good; returns once nothing is waiting.

    seconds: how long a request may still be worked on.
    Raises Problem where one takes longer, or TorchServe cannot be asked; new requests are refused then, too.
    """
    refusing = control.refusing(service.control)
    try:
        _turn(service, management.versions(service), refusing, seconds)
    except requests.RequestException as error:
        raise Problem(f"TorchServe does not answer at {service.management}") from error
    finally:
        with suppress(OSError):
            refusing.touch()
    time.sleep(_SENT)


@contextmanager
def retired(service: Service, version: str, seconds: float) -> Iterator[None]:
    """For the time of the block a version, not the default one, has answered all and refuses what comes.

    seconds: how long a request may still be worked on. Raises Problem as drain does; nothing is refused then.
    """
    refusing = control.refusing(service.control, version)
    try:
        _turn(service, [version], refusing, seconds)
        time.sleep(_SENT)
        # Nobody is held now: what waits in the queue of a version that is unregistered is never answered, and a refusal
        # takes a worker a millisecond.
        yield
    finally:
        refusing.unlink(missing_ok=True)


def _turn(service: Service, versions: Sequence[str], refusing: Path, seconds: float) -> None:
    """From answering to refusing, between two requests; returns once none is waiting."""
    deadline = time.monotonic() + seconds
    with ExitStack() as all_held:
        for version in versions:
            all_held.enter_context(quiesce.held(service, max(0.0, deadline - time.monotonic()), version))
        try:
            refusing.touch()
        except OSError as error:
            raise Problem(f"new requests cannot be refused: {error.strerror}: {refusing}") from error
    for version in versions:
        _empty(service, version)


def _empty(service: Service, version: str) -> None:
    deadline = time.monotonic() + _REFUSALS
    while time.monotonic() < deadline:
        model = management.describe(service, version)
        if model is None or model.queued == 0:
            return
        time.sleep(_POLL)


def is_draining(service: Service) -> bool:
    """Whether the service refuses new requests because it is about to end."""
    return control.refusing(service.control).exists()
