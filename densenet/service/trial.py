"""A trial of a new version on clients' requests: as a canary, which answers a share of them, or as a shadow, which gets
copies of them and whose answers are dropped.

The command and the gateways before the service speak through files in the service's folder. The command writes
trial.json and renews it for as long as it runs. A gateway reads it ten times a second, and writes gateway-PORT, with
the id of the trial that all its nginx processes have taken up. A file that was not renewed for LEASE seconds is void:
no trial outlives a command that was killed, and nobody waits for a gateway that was killed.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from densenet.polling import wait_until
from densenet.service import readout, shadow
from densenet.service.readout import Limits, ReadOut
from densenet.service.torchserve import LogFormat, Service
from export import console
from export.console import CliError

LEASE = 10.0
RENEWAL = 1.0
_FILE = "trial.json"
_GATEWAY = "gateway-"
_ROUTABLE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")  # as in nginx.conf.template


@dataclass(frozen=True)
class Trial:
    """What the gateway does with requests that name no version.

    Attributes:
        percent: the share of them that the new version answers; 0 for a shadow.
        copies: HOST:PORT/PATH that takes copies of them, for a shadow.
    """

    id: str
    version: str
    percent: float
    copies: str = ""

    def __str__(self) -> str:
        what = "gets copies of the requests" if self.copies else f"answers {self.percent:g}% of the requests"
        return f"version {self.version} {what}"


@dataclass(frozen=True)
class Plan:
    """A trial to make. percent: 0 for a shadow."""

    percent: float
    seconds: float
    limits: Limits


def current(folder: Path) -> Trial | None:
    """Return the trial that a running command makes of a service."""
    return read(folder) if _is_fresh(folder / _FILE) else None


def read(folder: Path) -> Trial | None:
    """Return the trial that a command makes, or was making when it was killed."""
    try:
        return Trial(**json.loads((folder / _FILE).read_text()))
    except (OSError, ValueError, TypeError):  # none, or of another version of this program
        return None


def report(folder: Path, port: int, taken_up: str) -> None:
    """Tell commands that a gateway is before the service, and which trial it has taken up; "" for none."""
    path = folder / f"{_GATEWAY}{port}"
    with suppress(OSError):  # in a pod, the folder may not be there yet
        if not path.exists() or path.read_text() != taken_up:
            path.write_text(taken_up)
        os.utime(path)


def withdraw_report(folder: Path, port: int) -> None:
    """Tell commands that a gateway is no longer before the service."""
    with suppress(OSError):
        (folder / f"{_GATEWAY}{port}").unlink(missing_ok=True)


def end(folder: Path, seconds: float) -> None:
    """End the trial, and wait until no gateway sends requests to the new version or copies of them.

    Raises:
        CliError: if a gateway takes longer.
    """
    (folder / _FILE).unlink(missing_ok=True)
    _wait_for_gateways(folder, "", seconds)


def check(service: Service, version: str) -> None:
    """Check, before anything is started, that a trial is possible.

    Raises:
        CliError: says what to do.
    """
    if service.log_format != LogFormat.JSON:
        raise CliError(
            "a trial is judged by requests.log, which this service does not write; start it with scripts/serve "
            "--model-api --log-format json"
        )
    if not _gateways(Path(service.folder)):
        raise CliError(
            f"a trial needs a gateway, and none of this machine is before the service on port {service.port}; start "
            f"scripts/gateway; if it names upstreams, this one is --upstream {service.inference},{service.folder}"
        )
    if not _ROUTABLE.fullmatch(version):
        raise CliError(f"the gateway cannot send requests to version {version}; use letters, digits, '.', '_' and '-'")


def conduct(service: Service, plan: Plan, old: str, new: str, drain_seconds: float) -> None:
    """Make a trial of a registered version, print both versions' numbers side by side, and judge the new one.

    Other commands may run meanwhile, so the lock of this checkout must not be held.

    Raises:
        CliError: if the new version is not fit to be put into service, or another command has ended the trial.
    """
    folder = Path(service.folder)
    copies = nullcontext() if plan.percent else shadow.receiving(service, new)
    with closing(ReadOut(service, old, new, paired=not plan.percent)) as watched, copies as receiver:
        trial = Trial(secrets.token_hex(8), new, plan.percent, receiver.address if receiver else "")
        console.err.print(f"for {plan.seconds:g} seconds, {trial}", markup=False)
        with _offered(folder, trial, drain_seconds):
            _watch(service, plan, trial, watched)
        if receiver:
            receiver.finish()
        watched.update(last=True)
    readout.show(watched)
    if receiver and receiver.dropped:
        console.err.print(f"{receiver.dropped} copies were dropped, because version {new} was busy", markup=False)
    if reason := watched.failure(plan.limits):
        raise CliError(f"{reason}; version {old} stays in service")


@contextmanager
def _offered(folder: Path, trial: Trial, seconds: float) -> Iterator[None]:
    """Have all gateways take a trial up for the time of the block."""
    partial = folder / f"{_FILE}.partial"
    partial.touch(mode=0o600)  # whoever knows the path for copies can have the new version compute
    partial.write_text(json.dumps(asdict(trial)))
    partial.replace(folder / _FILE)
    try:
        _wait_for_gateways(folder, trial.id, seconds)
        yield
    finally:
        if read(folder) == trial:
            end(folder, seconds)


def _watch(service: Service, plan: Plan, trial: Trial, watched: ReadOut) -> None:
    """Wait until the trial's time is over, or the new version has already failed."""
    folder, deadline = Path(service.folder), time.monotonic() + plan.seconds
    with console.err.status("") as status:
        while (left := deadline - time.monotonic()) > 0:
            _renew(folder, trial)
            if not _gateways(folder) or not service.alive:
                raise CliError(f"{'the service' if not service.alive else 'the gateway'} has ended during the trial")
            watched.update()
            if watched.has_errors(plan.limits):
                return
            status.update(f"{left:.0f} s left; requests to version {trial.version}: {watched.new.requests}")
            time.sleep(min(RENEWAL, left))


def _renew(folder: Path, trial: Trial) -> None:
    if current(folder) != trial:
        raise CliError(f"the trial of version {trial.version} was ended by another command, or this one stood still")
    with suppress(FileNotFoundError):
        os.utime(folder / _FILE)


def _wait_for_gateways(folder: Path, taken_up: str, seconds: float) -> None:
    """Wait until every gateway has taken a trial up, and there is one; "" for none of both."""

    def all_have() -> bool:
        with suppress(FileNotFoundError):
            if taken_up:
                os.utime(folder / _FILE)
        states = {*_gateways(folder).values()}
        return states == {taken_up} or not (states or taken_up)

    if not wait_until(all_have, seconds):
        raise CliError(f"a gateway has not taken up the change within {seconds:g} seconds; see its output")


def _gateways(folder: Path) -> dict[str, Any]:
    """Return the running gateways before a service, and the id of the trial that each has taken up."""
    found = {}
    for path in folder.glob(f"{_GATEWAY}*"):
        with suppress(OSError):
            if _is_fresh(path):
                found[path.name] = path.read_text()
    return found


def _is_fresh(path: Path) -> bool:
    with suppress(OSError):
        return abs(time.time() - path.stat().st_mtime) < LEASE
    return False
