"""Pause all workers at a moment when none of them is working on a client's request.

TorchServe does not report what its workers are doing, and ends busy workers like idle ones. But it serves its queue in
order: once every worker has received a request of ours, all earlier requests are answered. We request the model card,
because TorchServe never batches that request with others (pollBatch in org.pytorch.serve.wlm.Model), so a worker that
it pauses has no client's request. Our request carries the name of a folder that only this account can make
(handler/worker_control.py). Requests that arrive meanwhile wait in the queue.
"""

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import requests

from densenet.polling import wait_until
from densenet.service import authenticated_session, management
from densenet.service.torchserve import Service
from export.console import CliError
from handler.worker_control import PAUSE_HEADER, PAUSE_SECONDS

_POLL = 0.01
_RETRY_INTERVAL = 0.02  # seconds before a request is sent again because the queue was full or its worker has ended
_JOIN_SECONDS = 2  # for our own requests to end after the workers have been resumed


@contextmanager
def paused(service: Service, seconds: float, version: str | None = None) -> Iterator[None]:
    """Keep the workers of a version from working on clients' requests during the block.

    Args:
        seconds: how long to wait for running requests to finish.
        version: the version; None means the default version.

    Raises:
        CliError: if running requests take longer; no request is affected then.
    """
    model = management.describe(service, version)
    if model is None:
        raise CliError(f"TorchServe has no version {version} of {service.model}")
    # Another worker may be about to start. The threads are daemons, since a worker that hangs blocks one of them.
    count = max(len(model.workers), model.min_workers) if model.ready else 0
    folder = service.control / f"hold-{secrets.token_hex(16)}"
    url = management.address(service, model.version)
    threads = [Thread(target=_keep_sending, args=(service, url, folder), daemon=True) for _ in range(count)]
    try:  # from before the folder exists, since a signal can end the command at any moment
        _make(folder, service.port)
        for thread in threads:
            thread.start()
        _wait(service, model.version, folder, seconds)
        yield
    finally:
        _release(folder)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in threads:
            if thread.is_alive():  # False for a thread that a signal kept from starting; joining it would raise
                thread.join(max(0.0, deadline - time.monotonic()))


def _make(folder: Path, port: int) -> None:
    try:
        folder.mkdir()
    except FileNotFoundError as error:
        raise CliError(f"the service on port {port} was started by an older version; restart it") from error
    except OSError as error:
        raise CliError(f"cannot pause the workers: {error.strerror}: {folder}") from error


def release_all(service: Service) -> None:
    """Resume the workers that a command paused and left so when it was killed; no other command may be at work."""
    for folder in service.control.glob("hold-*"):
        _release(folder)


def _keep_sending(service: Service, url: str, folder: Path) -> None:
    """Send the request that pauses a worker, again and again until the folder is gone."""
    headers = {PAUSE_HEADER: folder.name.removeprefix("hold-")}
    while folder.exists():
        # The request fails when its worker is ended, which is why it was paused, or when two threads renew the tokens.
        with suppress(requests.RequestException, CliError), authenticated_session.session(service) as http:
            http.get(url, params=management.FROM_A_WORKER, headers=headers, timeout=PAUSE_SECONDS * 2)
        if folder.exists():
            time.sleep(_RETRY_INTERVAL)


def _wait(service: Service, version: str, folder: Path, seconds: float) -> None:
    def all_paused() -> bool:
        paused_pids = {int(path.name) for path in folder.iterdir()}
        model = management.describe(service, version)
        return model is None or {worker.pid for worker in model.workers if worker.ready} <= paused_pids

    if not wait_until(all_paused, seconds, _POLL):
        raise CliError(
            f"a worker has not finished its request within {seconds:g} seconds; allow more with --drain-seconds"
        )


def _release(folder: Path) -> None:
    # Rename the folder first, so that a worker that receives our request late does not find it while it is emptied.
    over = folder.with_name(folder.name.replace("hold", "over"))
    with suppress(FileNotFoundError):  # it was never made
        folder.rename(over)
        shutil.rmtree(over)
