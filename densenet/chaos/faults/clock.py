"""The clock jumps, forwards and backwards, while tokens are asked for and a time-out runs."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from densenet.chaos import load as loading
from densenet.chaos.environment import environment
from densenet.chaos.faults.workers import RESPONSE_TIMEOUT
from densenet.chaos.monitor import Log, one_worker, whole, within
from densenet.chaos.oracle import Outcome, Verdict
from densenet.chaos.plan import Fault, Finding, Skipped, at_least, at_most
from densenet.chaos.scenario import BEFORE, PATIENCE, SOON, Scene, finding, steady
from densenet.service import temporary_instance
from densenet.service.authenticated_session import TIMEOUT
from densenet.service.tokens import KEY_FILE
from densenet.service.torchserve import Service
from export.archive import copy_with_settings

_LIBRARIES = ("/usr/lib", "/usr/local/lib")
_SEEN = 2.5  # seconds until every process has read the new time
_EXPIRED = "400 InvalidKeyException"
_DONE = (
    "libfaketime moves the wall clock of Java and the workers by +2 h and then by -2 h, tokens being asked for; a "
    f"worker hangs before the second jump, with `responseTimeout` at {RESPONSE_TIMEOUT} seconds."
)


class Guarded:
    """A service that asks for tokens, the folder that it writes its keys to, and the file that its clock obeys."""

    def __init__(self, service: Service, keys: Path, shift: Path) -> None:
        self.service, self._keys, self._shift = service, keys, shift

    def headers(self, which: str) -> dict[str, str]:
        """The token for inference, management or API, as it is now."""
        return {"Authorization": f"Bearer {json.loads(self._keys.read_text())[which]['key']}"}

    def renew(self) -> None:
        """New tokens for inference and management, by the API's, which never expires."""
        for kind in ("inference", "management"):
            address = f"{self.service.management}/token"
            answer = requests.get(address, params={"type": kind}, headers=self.headers("API"), timeout=TIMEOUT)
            answer.raise_for_status()

    def jump(self, shift: str) -> None:
        """Sets the clock off by that much, for libfaketime to read."""
        self._shift.write_text(shift)
        time.sleep(_SEEN)


def jump(scene: Scene) -> Finding:
    """Two hours on, tokens have expired; two hours back, a time-out still takes its seconds. Raises Skipped."""
    with _guarded(scene, _library()) as guarded:
        service, log = guarded.service, Log(guarded.service)
        with steady(service.inference, guarded.headers("inference")) as load:
            injected = time.monotonic()
            guarded.jump("+2h")
            expired = within(PATIENCE, lambda: any(_EXPIRED in outcome.detail for outcome in load.outcomes))
            guarded.renew()
            load.headers = guarded.headers("inference")
            loading.wait_for_answers(load, BEFORE, PATIENCE)
            renewed = time.monotonic()
            victim = one_worker(service)
            victim.suspend()
            hung = time.monotonic()
            guarded.jump("-2h")
            whole_again = within(PATIENCE, lambda: whole(service, victim.pid))
    found = finding(Fault.CLOCK_JUMP, _DONE, load.outcomes, injected, whole_again, log.warnings())
    refused = [outcome for outcome in load.outcomes if outcome.verdict is Verdict.REFUSED]
    found.checks += [
        at_least("refusals of an expired token after +2 h", _expired(load.outcomes), 1),
        at_most("until they are seen", expired and expired - injected, 30, " s"),
        at_most("refusals of a token after it was renewed", _expired(load.outcomes, renewed), 0),
        at_most("other failed requests", len(refused) - _expired(refused), 1),
        at_most(
            "until a hung worker is replaced, across -2 h",
            whole_again and whole_again - hung,
            RESPONSE_TIMEOUT + SOON,
            " s",
        ),
    ]
    found.notes.append(
        "Tokens expire by the wall clock: a jump forwards ends them early, and a jump backwards lets them live as much "
        "longer. Time-outs run by a clock that does not jump."
    )
    return found


def _expired(outcomes: list[Outcome], since: float = 0) -> int:
    return sum(outcome.detail == _EXPIRED and outcome.begun >= since for outcome in outcomes)


def _library() -> Path:
    for folder in _LIBRARIES:
        for path in sorted(Path(folder).rglob("libfaketimeMT.so.1")):
            return path
    raise Skipped("libfaketime is not installed (Debian's package faketime)")


@contextmanager
def _guarded(scene: Scene, library: Path) -> Iterator[Guarded]:
    """A service with tokens and a clock that can be moved."""
    folder = scene.scratch("clock")
    shift, archive = folder / "shift", folder / "store" / "densenet.mar"
    shift.write_text("+0")
    copy_with_settings(scene.archive, archive, {"responseTimeout": RESPONSE_TIMEOUT})
    # When a clock is set, the monotonic one does not move, and waits that go by it take their time (without the second
    # of these libfaketime ends them at once). Files keep their times, or Python would compile all of torch anew.
    faked = {
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "NO_FAKE_STAT": "1",
        "FAKETIME_CACHE_DURATION": "1",
    }
    with (
        environment(LD_PRELOAD=str(library), FAKETIME_TIMESTAMP_FILE=str(shift), **faked),
        temporary_instance.serving(archive, folder, disable_token_authorization="false") as service,
    ):
        yield Guarded(service, Path(service.folder, KEY_FILE), shift)
