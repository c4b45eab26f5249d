"""Holding all workers at a moment when none of them works on anybody's request.

TorchServe tells nobody what its workers do, and ends a busy one as it ends an idle one. Its queue, however, is served
in order: when every worker has taken a question of ours, each has answered all that came before. We ask for the model
card, which TorchServe, whatever its batch size, never puts into a batch with others (org.pytorch.serve.wlm.Model,
pollBatch): a worker held by it has nobody else's request. The question carries the token of a folder that only this
account can make (handler/control.py); what comes meanwhile waits in the queue.
"""

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import requests

from densenet.service import authenticated_session, management
from densenet.service.torchserve import Service
from export.console import Problem
from handler.control import HOLD, HOLD_SECONDS

_POLL = 0.01
_AGAIN = 0.02  # seconds before a question is put once more: the queue was full, or the worker that had it has ended
_LATE = 2  # seconds for our own questions to end after the workers have been let go


@contextmanager
def held(service: Service, seconds: float, version: str | None = None) -> Iterator[None]:
    """For the time of the block no worker of a version, the default one unless named, works on a client's request.

    seconds: how long to wait for them to finish what they have begun.
    Raises Problem where they do not; nothing has then happened to any request.
    """
    model = management.describe(service, version)
    if model is None:
        raise Problem(f"TorchServe has no version {version} of {service.model}")
    folder = service.control / f"hold-{secrets.token_hex(16)}"
    try:
        folder.mkdir()
    except FileNotFoundError as error:
        raise Problem(f"the service on port {service.port} was started by an older version; restart it") from error
    except OSError as error:
        raise Problem(f"workers cannot be held: {error.strerror}: {folder}") from error
    # A worker may be about to join. Nobody waits for the threads: a worker that hangs keeps one of them for as long.
    count = max(len(model.workers), model.wanted) if model.ready else 0
    url = management.address(service, model.version)
    asking = [Thread(target=_keep_asking, args=(service, url, folder), daemon=True) for _ in range(count)]
    try:
        for thread in asking:
            thread.start()
        _wait(service, model.version, folder, seconds)
        yield
    finally:
        _release(folder)
        deadline = time.monotonic() + _LATE
        for thread in asking:
            if thread.is_alive():  # which one that was never started, since a signal came, is not
                thread.join(max(0.0, deadline - time.monotonic()))


def _keep_asking(service: Service, url: str, folder: Path) -> None:
    """Puts the question that holds a worker, until all is over."""
    headers = {HOLD: folder.name.removeprefix("hold-")}
    while folder.exists():
        # The worker that it held has been ended, which is what it was held for; or two renewed the tokens at once.
        with suppress(requests.RequestException, Problem), authenticated_session.session(service) as http:
            http.get(url, params=management.FROM_A_WORKER, headers=headers, timeout=HOLD_SECONDS * 2)
        if folder.exists():
            time.sleep(_AGAIN)


def _wait(service: Service, version: str, folder: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        kept = {int(path.name) for path in folder.iterdir()}
        model = management.describe(service, version)
        working = {worker.pid for worker in model.workers if worker.ready} if model else set()
        if working <= kept:
            return
        time.sleep(_POLL)
    raise Problem(f"a worker has not finished what it is working on within {seconds:g} seconds")


def _release(folder: Path) -> None:
    # Renamed first: a worker that comes late must not find the folder while it is being emptied.
    over = folder.with_name(folder.name.replace("hold", "over"))
    folder.rename(over)
    shutil.rmtree(over)
