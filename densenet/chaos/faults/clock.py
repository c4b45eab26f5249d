"""Clock jumps, forwards and backwards, with token authorization on and a timeout running."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import requests

from densenet.chaos.faults.workers import RESPONSE_TIMEOUT
from densenet.chaos.load import PATIENCE
from densenet.chaos.monitor import Log, healthy, one_worker, within
from densenet.chaos.oracle import Outcome, Verdict
from densenet.chaos.plan import Fault, Finding, Skipped, at_least, at_most
from densenet.chaos.scenario import ANSWERS, SOON, Scenario, make_finding, steady
from densenet.service import allocator, temporary_instance
from densenet.service.authenticated_session import TIMEOUT
from densenet.service.tokens import KEY_FILE
from densenet.service.torchserve import Service
from export.archive import copy_with_settings

_LIBRARIES = ("/usr/lib", "/usr/local/lib")
_CLOCK_DELAY = 2.5  # seconds until every process has read the new time
_EXPIRED = "400 InvalidKeyException"
_DONE = (
    "libfaketime moves the wall clock of Java and the workers by +2 h and then by -2 h, with token authorization on. A "
    f"worker is suspended before the second jump; `responseTimeout` is {RESPONSE_TIMEOUT} seconds."
)


class Guarded:
    """A service that requires tokens, the file with its keys, and the file that sets its clock."""

    def __init__(self, service: Service, keys: Path, shift: Path) -> None:
        self.service, self._keys, self._shift = service, keys, shift

    def headers(self, which: str) -> dict[str, str]:
        """Return the header with the current token for inference, management or API."""
        return {"Authorization": f"Bearer {json.loads(self._keys.read_text())[which]['key']}"}

    def renew(self) -> None:
        """Renew the tokens for inference and management with the API token, which never expires."""
        for kind in ("inference", "management"):
            address = f"{self.service.management}/token"
            answer = requests.get(address, params={"type": kind}, headers=self.headers("API"), timeout=TIMEOUT)
            answer.raise_for_status()

    def jump(self, shift: str) -> None:
        """Shift the clock by an offset in libfaketime's format, such as "+2h"."""
        self._shift.write_text(shift)
        time.sleep(_CLOCK_DELAY)


def jump(scenario: Scenario) -> Finding:
    """Check that tokens expire two hours ahead, and that timeouts are unaffected two hours back.

    Raises: Skipped if libfaketime is not installed.
    """
    with _guarded(scenario, _library()) as guarded:
        service, log = guarded.service, Log(guarded.service)
        with steady(service.inference, guarded.headers("inference")) as load:
            injected = time.monotonic()
            guarded.jump("+2h")
            expired = within(PATIENCE, lambda: any(_EXPIRED in outcome.detail for outcome in load.outcomes))
            guarded.renew()
            load.headers = guarded.headers("inference")
            load.wait_for_answers(ANSWERS, "after the token was renewed")
            renewed = time.monotonic()
            victim = one_worker(service)
            victim.suspend()
            hung = time.monotonic()
            guarded.jump("-2h")
            healthy_again = within(PATIENCE, lambda: healthy(service, victim.pid))
    result = make_finding(Fault.CLOCK_JUMP, _DONE, load.outcomes, injected, healthy_again, log.warnings())
    refused = [outcome for outcome in load.outcomes if outcome.verdict is Verdict.REFUSED]
    result.checks += [
        at_least("refusals of the expired token after +2 h", _expired(load.outcomes), 1),
        at_most("time until the first refusal", expired and expired - injected, 30, " s"),
        at_most("refusals of a token after it was renewed", _expired(load.outcomes, renewed), 0),
        at_most("other failed requests", len(refused) - _expired(refused), 1),
        at_most(
            "time until the hung worker is replaced, after the jump by -2 h",
            healthy_again and healthy_again - hung,
            RESPONSE_TIMEOUT + SOON,
            " s",
        ),
    ]
    result.notes.append(
        "Tokens expire by the wall clock: a jump forwards ends them early, and a jump backwards extends them by the "
        "same time. Timeouts use a monotonic clock, which does not jump."
    )
    return result


def _expired(outcomes: list[Outcome], since: float = 0) -> int:
    return sum(outcome.detail == _EXPIRED and outcome.begun >= since for outcome in outcomes)


def _library() -> Path:
    for folder in _LIBRARIES:
        for path in sorted(Path(folder).rglob("libfaketimeMT.so.1")):
            return path
    raise Skipped("libfaketime is not installed (Debian's package faketime)")


@contextmanager
def _guarded(scenario: Scenario, library: Path) -> Iterator[Guarded]:
    """Start a service that requires tokens and has an adjustable clock."""
    folder = scenario.scratch("clock")
    shift, archive = folder / "shift", folder / "store" / "densenet.mar"
    shift.write_text("+0")
    copy_with_settings(scenario.archive, archive, {"responseTimeout": RESPONSE_TIMEOUT})
    # Setting the wall clock does not move the monotonic one, so waits on it must keep their duration; without
    # FAKETIME_FORCE_MONOTONIC_FIX=0 libfaketime ends them at once. File times stay real, because otherwise Python
    # recompiles all of torch. mimalloc would hang: it reads the clock when it starts, for which libfaketime allocates
    # memory.
    faked = {
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "NO_FAKE_STAT": "1",
        "FAKETIME_CACHE_DURATION": "1",
        allocator.VARIABLE: "none",
    }
    with (
        mock.patch.dict(os.environ, LD_PRELOAD=str(library), FAKETIME_TIMESTAMP_FILE=str(shift), **faked),
        temporary_instance.serving(archive, folder, disable_token_authorization="false") as service,
    ):
        yield Guarded(service, Path(service.folder, KEY_FILE), shift)
