"""Wait until the service answers a prediction, or find out why it cannot.

TorchServe's /ping reports Healthy while workers are still loading, and even while they crash and restart.
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
from export.console import CliError, err

_POLL = 0.1
_TRACEBACK_SECONDS = 0.5  # seconds for the rest of a traceback to reach the log
# The last line of a traceback.
_REASON = re.compile(r" - ((?:\w+\.)*\w*(?:[Ee]rror|Exception|Interrupt): .+)$", re.MULTILINE)
# What TorchServe, or Java itself, prints on the console for an invalid configuration.
_CONFIGURATION_ERROR = re.compile(
    r"^(Invalid configuration: .+)$|^(.+)\nError: Could not create the Java Virtual Machine", re.MULTILINE
)
_MODEL_LOG, _SERVER_LOG, _CONSOLE = "model_log.log", "ts_log.log", "console.log"


class Watch:
    """Looks for the reason of a failed start in a service's logs; create it before the service starts."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        # console.log is not among them: each start truncates it, so it is read from its beginning.
        self._tail = Tail(logs, (_MODEL_LOG, _SERVER_LOG))

    def worker_failure(self) -> str | None:
        """Return the reason why a worker could not load the model, or None if none failed."""
        text = self._new(_MODEL_LOG)
        if "Backend worker process died" not in text and "Load model failed" not in self._new(_SERVER_LOG):
            return None
        time.sleep(_TRACEBACK_SECONDS)
        # The first traceback is the cause; later ones are TorchServe's reactions to it.
        reasons = _REASON.findall(self._new(_MODEL_LOG))
        return reasons[0] if reasons else f"see {self._logs / _MODEL_LOG}"

    def server_failure(self) -> str:
        """Return the reason why TorchServe exited, or did not accept the model."""
        console = self._new(_CONSOLE)
        # Look for these first: the exceptions that TorchServe prints afterwards come from its shutdown.
        if error := _CONFIGURATION_ERROR.search(console):
            return f"{error[1] or error[2]}"
        text = self._new(_SERVER_LOG) + console
        reasons = re.findall(r"(?:\w+\.)+\w*(?:Exception|Error): (.+)$", text, re.MULTILINE)
        return reasons[-1] if reasons else f"see {self._logs / _SERVER_LOG}"

    def _new(self, name: str) -> str:
        return "".join(f"{_plain(line)}\n" for line in self._tail.new(name).splitlines())


def _plain(line: str) -> str:
    """Return a log line as text, whether the log's format is text or JSON."""
    try:
        entry = json.loads(line)
        return f" - {entry['message']}\n{entry['exception']}"
    except (ValueError, TypeError, KeyError):
        return line


def wait(service: Service, watch: Watch, version: str | None = None) -> int:
    """Wait until all workers are ready and a photo was answered; return the number of ready workers.

    Args:
        version: the version to wait for; None means the default version.

    Raises:
        CliError: with the reason, if the service cannot become ready or takes too long.
    """
    deadline = time.monotonic() + LOADING
    with err.status("waiting for TorchServe") as status:
        while time.monotonic() < deadline:
            if service.is_ours and not service.alive:
                raise CliError(f"TorchServe exited: {watch.server_failure()}")
            state = _state(service, watch, version)
            if state and state.ready >= state.min_workers and _answers_photo(service, version):
                return state.ready
            if reason := watch.worker_failure():
                raise CliError(f"a worker cannot load the model: {reason}")
            if state:
                status.update(f"loading the model: {state.ready} of {state.min_workers} workers ready")
            time.sleep(_POLL)
    raise CliError(f"the service did not come up within {LOADING} seconds; see {service.logs}")


def _state(service: Service, watch: Watch, version: str | None) -> Model | None:
    try:
        state = management.describe(service, version)
    except (requests.ConnectionError, requests.Timeout):
        return None
    # TorchServe loads its models before it opens its ports, so an unknown model is one that it refused.
    if state is None:
        raise CliError(f"TorchServe did not accept {service.model}.mar: {watch.server_failure()}")
    return state


def _answers_photo(service: Service, version: str | None) -> bool:
    try:
        with authenticated_session.session(service) as http:
            response = http.post(service.at(version), data=PHOTO.read_bytes(), timeout=60)
        error = None if response.ok else response.json().get("error")
    except (requests.RequestException, ValueError, AttributeError):
        return False
    if error:
        raise CliError(f"the service refused a test photo: {error['code']}: {error['message']}")
    return response.ok
