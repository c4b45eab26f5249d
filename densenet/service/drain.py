"""Drain a service: answer the requests it has accepted and refuse new ones, so that stopping it loses none."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import requests

from densenet.polling import wait_until
from densenet.service import management, quiesce
from densenet.service.torchserve import Service
from export.console import CliError
from handler import worker_control

SECONDS = 30.0  # the default time for running requests to finish
_POLL = 0.02
_FLUSH_SECONDS = 0.3  # for TorchServe to write the last responses to their connections
_REFUSAL_SECONDS = 5  # for the workers to refuse the requests that are left in the queue


def drain(service: Service, seconds: float) -> None:
    """Answer the accepted requests, refuse new ones from then on, and return once the queue is empty.

    New requests are refused even if this raises.

    Args:
        seconds: how long running requests may still take.

    Raises:
        CliError: if a request takes longer, or TorchServe does not answer.
    """
    marker = worker_control.draining_file(service.control)
    try:
        _stop_accepting(service, management.versions(service), marker, seconds)
    except requests.RequestException as error:
        raise CliError(f"TorchServe does not answer at {service.management}") from error
    finally:
        with suppress(OSError):
            marker.touch()
    time.sleep(_FLUSH_SECONDS)


@contextmanager
def drained_version(service: Service, version: str, seconds: float) -> Iterator[None]:
    """Drain a version that is not the default one, and keep it refusing requests during the block.

    If this raises, the version refuses nothing.

    Args:
        seconds: how long running requests may still take.

    Raises:
        CliError: as `drain` does.
    """
    marker = worker_control.draining_file(service.control, version)
    try:
        _stop_accepting(service, [version], marker, seconds)
        time.sleep(_FLUSH_SECONDS)
        # The workers run again here. TorchServe never answers requests that are queued when their version is
        # unregistered, so the workers must refuse them first; a refusal takes a millisecond.
        yield
    finally:
        marker.unlink(missing_ok=True)


def _stop_accepting(service: Service, versions: Sequence[str], marker: Path, seconds: float) -> None:
    """Make workers refuse new requests once the running ones are answered; return once the queues are empty."""
    deadline = time.monotonic() + seconds
    with ExitStack() as all_paused:
        for version in versions:
            all_paused.enter_context(quiesce.paused(service, max(0.0, deadline - time.monotonic()), version))
        try:
            marker.touch()
        except OSError as error:
            raise CliError(f"cannot make the workers refuse new requests: {error.strerror}: {marker}") from error
    for version in versions:
        _wait_for_empty_queue(service, version)


def _wait_for_empty_queue(service: Service, version: str) -> None:
    def is_empty() -> bool:
        model = management.describe(service, version)
        return model is None or model.queued == 0

    wait_until(is_empty, _REFUSAL_SECONDS, _POLL)
