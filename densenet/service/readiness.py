"""Waiting until the service has really answered, or finding out why it will not.

TorchServe's /ping says Healthy while workers still load, and goes on saying so while they crash and restart.
"""

import json
import re
import time
from pathlib import Path

import requests

from densenet.paths import PHOTO
from densenet.service import authenticated_session, management
from densenet.service.log_reader import Tail
from densenet.service.management import LOADING, Model
from densenet.service.torchserve import Service
from export.console import Problem, err

_POLL = 0.1
_SETTLE = 0.5  # seconds for the rest of a traceback to reach the log
_REASON = re.compile(r" - ((?:\w+\.)*\w*(?:[Ee]rror|Exception|Interrupt): .+)$", re.MULTILINE)  # a traceback's end
# What Java's console says of a configuration that TorchServe, or Java itself, cannot use.
_REFUSED = re.compile(
    r"^(Invalid configuration: .+)$|^(.+)\nError: Could not create the Java Virtual Machine", re.MULTILINE
)
_MODEL_LOG, _SERVER_LOG, _CONSOLE = "model_log.log", "ts_log.log", "console.log"


class Watch:
    """The logs of a service from now on: made before it starts, read when it does not come up."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        # The console's is begun anew by each start.
        self._tail = Tail(logs, (_MODEL_LOG, _SERVER_LOG))

    def worker_failure(self) -> str | None:
        """Why a worker could not load the model, if one could not."""
        text = self._new(_MODEL_LOG)
        if "Backend worker process died" not in text and "Load model failed" not in self._new(_SERVER_LOG):
            return None
        time.sleep(_SETTLE)
        # The first one: further tracebacks tell what TorchServe made of it.
        reasons = _REASON.findall(self._new(_MODEL_LOG))
        return reasons[0] if reasons else f"see {self._logs / _MODEL_LOG}"

    def server_failure(self) -> str:
        """Why TorchServe itself ended, or did not take the model."""
        console = self._new(_CONSOLE)
        # These come first: what TorchServe prints afterwards is about its own end.
        if refused := _REFUSED.search(console):
            return f"{refused[1] or refused[2]}"
        text = self._new(_SERVER_LOG) + console
        reasons = re.findall(r"(?:\w+\.)+\w*(?:Exception|Error): (.+)$", text, re.MULTILINE)
        return reasons[-1] if reasons else f"see {self._logs / _SERVER_LOG}"

    def _new(self, name: str) -> str:
        return "".join(f"{_plain(line)}\n" for line in self._tail.new(name).splitlines())


def _plain(line: str) -> str:
    """A line of a log as text, in which format ever it is."""
    try:
        entry = json.loads(line)
        return f" - {entry['message']}\n{entry['exception']}"
    except (ValueError, TypeError, KeyError):
        return line


def wait(service: Service, watch: Watch, version: str | None = None) -> int:
    """Returns the number of workers once as many as are wanted are ready, and a photo was answered.

    version: the default one unless named. Raises Problem with the reason when that cannot be.
    """
    deadline = time.monotonic() + LOADING
    with err.status("waiting for TorchServe") as status:
        while time.monotonic() < deadline:
            if not service.alive:
                raise Problem(f"TorchServe ended at once: {watch.server_failure()}")
            state = _state(service, watch, version)
            if state and state.ready >= state.wanted and _answers(service, version):
                return state.ready
            if reason := watch.worker_failure():
                raise Problem(f"a worker cannot load the model: {reason}")
            if state:
                status.update(f"loading the model: {state.ready} of {state.wanted} workers ready")
            time.sleep(_POLL)
    raise Problem(f"the service did not come up within {LOADING} seconds; see {service.logs}")


def _state(service: Service, watch: Watch, version: str | None) -> Model | None:
    try:
        state = management.describe(service, version)
    except (requests.ConnectionError, requests.Timeout):
        return None
    # Models are read before the ports are opened: one that is unknown now was refused.
    if state is None:
        raise Problem(f"TorchServe did not accept {service.model}.mar: {watch.server_failure()}")
    return state


def _answers(service: Service, version: str | None) -> bool:
    try:
        with authenticated_session.session(service) as http:
            response = http.post(service.at(version), data=PHOTO.read_bytes(), timeout=60)
        error = None if response.ok else response.json().get("error")
    except (requests.RequestException, ValueError, AttributeError):
        return False
    if error:
        raise Problem(f"the service refuses a photo: {error['code']}: {error['message']}")
    return response.ok
