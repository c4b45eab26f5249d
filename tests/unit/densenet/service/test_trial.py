"""What a rollout and the gateways tell each other, what is refused, and what happens when one of them is killed."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from densenet.gateway import upstreams
from densenet.polling import wait_until
from densenet.service import rollout, shadow, torchserve, trial
from densenet.service.readout import Limits
from densenet.service.torchserve import Service
from densenet.service.trial import Plan, Trial
from export.console import CliError
from tests.integration.gateways import standing_in

CANARY = Trial("a", "1.1", 10.0)
LIMITS = Limits(20, 0.01)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(1, 5.0, 9000, "http://127.0.0.1:9000", "", "densenet", "", "", {}, str(tmp_path), log_format="json")


def age(path: Path) -> None:
    """As if nobody had renewed the file."""
    os.utime(path, times=(time.time() - trial.LEASE - 1,) * 2)


def test_a_trial_lasts_until_every_gateway_has_ended_it(service: Service, tmp_path: Path) -> None:
    trial.report(tmp_path, 8443, "")
    trial.report(tmp_path, 9443, "")
    with ThreadPoolExecutor(1) as pool:

        def take_up(taken_up: str) -> None:
            while (trial.current(tmp_path) is None) == bool(taken_up):
                time.sleep(0.01)
            trial.report(tmp_path, 8443, taken_up)
            trial.report(tmp_path, 9443, taken_up)

        taken = pool.submit(take_up, "a")
        with trial._offered(tmp_path, CANARY, 30):
            taken.result()
            assert trial.current(tmp_path) == trial.read(tmp_path) == CANARY
            assert (tmp_path / "trial.json").stat().st_mode & 0o077 == 0
            pool.submit(take_up, "")
        assert {*trial._gateways(tmp_path).values()} == {""}
    assert trial.read(tmp_path) is None


def test_a_gateway_that_does_not_take_a_trial_up_ends_it(tmp_path: Path) -> None:
    for report in (lambda: None, lambda: trial.report(tmp_path, 8443, "")):  # one that has just ended, one that hangs
        report()
        with pytest.raises(CliError, match="has not taken up the change"), trial._offered(tmp_path, CANARY, 0.1):
            pytest.fail("begins")
        assert trial.read(tmp_path) is None


def test_what_was_killed_counts_no_more(service: Service, tmp_path: Path) -> None:
    trial.report(tmp_path, 8443, "")
    trial.check(service, "1.1")
    with trial._offered(tmp_path, replace(CANARY, id=""), 1):
        age(tmp_path / "trial.json")
        assert (trial.current(tmp_path), trial.read(tmp_path)) == (None, replace(CANARY, id=""))
        with pytest.raises(CliError, match="was ended by another command, or this one stood still"):
            trial._renew(tmp_path, CANARY)
    age(tmp_path / "gateway-8443")
    trial.end(tmp_path, 0)
    for gone in (lambda: None, lambda: trial.withdraw_report(tmp_path, 8443)):
        gone()
        with pytest.raises(CliError, match=r"a trial needs a gateway.*--upstream http://127\.0\.0\.1:9000,"):
            trial.check(service, "1.1")


def test_a_service_without_the_log_and_a_name_that_cannot_be_routed_are_refused(
    service: Service, tmp_path: Path
) -> None:
    trial.report(tmp_path, 8443, "")
    with pytest.raises(CliError, match="scripts/serve --model-api --log-format json"):
        trial.check(replace(service, log_format="text"), "1.1")
    with pytest.raises(CliError, match="cannot send requests to version"):
        trial.check(service, 'x" { }')


@pytest.mark.parametrize("content", ["", "[]", '{"id": 1}', "damaged"])
def test_a_file_of_another_program_is_no_trial(content: str, tmp_path: Path) -> None:
    (tmp_path / "trial.json").write_text(content)
    assert trial.read(tmp_path) is None


def test_the_gateway_sends_a_trials_requests_to_the_replica_that_has_the_version(tmp_path: Path) -> None:
    replicas = [upstreams.parse(f"127.0.0.1:{port},{tmp_path / str(port)}") for port in (1, 2)]
    for replica in replicas:
        assert replica.folder
        replica.folder.mkdir()
    assert upstreams.running_trial(replicas) is None
    idle = upstreams.trial_values(None, replicas, tmp_path)
    assert (idle["CANARY"], idle["MIRROR"]) == ("", "off")
    made = replace(CANARY, id="")
    with trial._offered(tmp_path / "2", made, 0):
        running = upstreams.running_trial(replicas)
        assert running == upstreams.RunningTrial(replicas[1], made)
        values = upstreams.trial_values(running, replicas, tmp_path)
        assert (values["CANARY"], values["MIRROR"]) == ('10.00% "/1.1";', "off")
        assert values["TRIAL_SERVERS"].count("1-127.0.0.1-2.sock") == 2
        assert "0-127.0.0.1-1.sock" not in values["TRIAL_SERVERS"]


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (("10%", "10m"), Plan(10.0, 600, LIMITS)),
        (("2.5", "90s"), Plan(2.5, 90, LIMITS)),
        ((None, "2h", True), Plan(0.0, 7200, LIMITS)),
        ((None, None), None),
        (("10%", None), "together with --for"),
        ((None, "10m"), "together with --for"),
        (("10%", "10m", True), "give --canary PERCENT or --shadow"),
        (("100%", "10m"), "percentage below 100"),
        (("0", "10m"), "percentage below 100"),
        (("a", "10m"), "percentage below 100"),
        (("10%", "10"), "--for must be a time"),
    ],
)
def test_a_trial_has_a_share_and_a_time(options: tuple[Any, ...], made: Plan | str | None) -> None:
    canary, duration, *is_shadow = options
    if isinstance(made, str):
        with pytest.raises(CliError, match=made):
            rollout._plan(canary, duration, LIMITS, shadow=bool(is_shadow))
    else:
        assert rollout._plan(canary, duration, LIMITS, shadow=bool(is_shadow)) == made


def test_copies_are_answered_at_once_and_dropped_while_the_version_is_busy(service: Service) -> None:
    hang = time.monotonic() + 3
    with standing_in(lambda _: (time.sleep(max(0, hang - time.monotonic())), (200, {}, b"{}"))[1]) as behind:
        busy = replace(service, inference=f"http://{behind.address}")
        with shadow.receiving(busy, "1.1") as receiver:
            statuses = [
                requests.post(f"http://{receiver.address}", data=b"photo", headers={"X-Request-Id": "a"}, timeout=60)
                for _ in range(8)
            ]
            assert time.monotonic() < hang
            assert {answer.status_code for answer in statuses} == {204}
            assert wait_until(lambda: receiver.dropped >= 5, 1)
            stranger = receiver.address.partition("/")[0]
            assert requests.post(f"http://{stranger}/guess", data=b"photo", timeout=60).status_code == 404
            receiver.finish()
        ((method, path, headers, body), *_) = behind.seen
        assert (method, path, body) == ("POST", "/predictions/densenet/1.1", b"photo")
        assert headers["x-request-id"] == "a"
        assert len(behind.seen) + receiver.dropped == 8


def test_other_commands_run_while_the_lock_is_lent(tmp_path: Path) -> None:
    with torchserve.lock(tmp_path) as handle, torchserve.unlocked(handle), torchserve.lock(tmp_path):
        pass
