"""Several machines: TorchServes in network namespaces of their own behind one gateway, and what clients see when one is
killed, when one after the other is replaced, and when one stands still or is slow. Every answer is compared with the
known one.
"""

import contextlib
import json
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from torch import nn

from densenet import processes
from densenet.chaos.load import Load
from export import ROOT
from tests.integration.conftest import build_archive, free_port
from tests.integration.pods import Container, container, wants_namespaces
from tests.integration.truth import PHOTOS, Truth, check, truths

pytestmark = wants_namespaces
CLIENTS = 4
INFERENCE = "http://{address}:8080"


@dataclass(frozen=True)
class ImageResult:
    """One request as its client saw it; outcome: right, wrong, or what stood in the way."""

    outcome: str
    began: float
    seconds: float


@dataclass(frozen=True)
class Fleet:
    """Two replicas, the gateway before them, and the truth about the photos that they are asked for."""

    replicas: Sequence[Container]
    url: str
    key: str
    truth: Sequence[Truth]
    log: Path

    def logged(self) -> list[dict[str, Any]]:
        """What the gateway has written of its requests: which replicas it asked for each, and what they said."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def ask(self, session: requests.Session, number: int) -> ImageResult:
        """One photo."""
        began = time.monotonic()
        headers = {"X-API-Key": self.key, "Content-Type": "application/octet-stream"}
        which = number % len(PHOTOS)
        try:
            answer = session.put(self.url, data=PHOTOS[which], headers=headers, timeout=60)
            outcome = verdict(answer, self.truth[which])
        except requests.RequestException as error:
            outcome = type(error).__name__
        return ImageResult(outcome, began, time.monotonic() - began)


def verdict(answer: requests.Response, truth: Truth) -> str:
    if answer.status_code != 200:
        return str(answer.status_code)
    try:
        check(answer.json(), truth)
    except AssertionError:
        return "wrong"
    return "right"


@pytest.fixture(scope="module")
def fleet(exported: Path, network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    archive = build_archive(exported, tmp_path_factory.mktemp("archive"), workers=1)
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(
                container(
                    *(10 + number, archive, tmp_path_factory.mktemp("replica")),
                    *("--workers", "1", "--drain-seconds", "30"),
                    inference=INFERENCE,
                )
            )
            for number in range(2)
        ]
        for replica in replicas:
            replica.start()
        for replica in replicas:
            replica.wait_ready()
        folder, port, key = tmp_path_factory.mktemp("gateway"), free_port(), secrets.token_hex(24)
        stack.enter_context(gateway(replicas, folder, port, key))
        yield Fleet(
            replicas, f"http://127.0.0.1:{port}/predictions/densenet", key, truths(network), folder / "access.log"
        )


@contextlib.contextmanager
def gateway(replicas: Sequence[Container], folder: Path, port: int, key: str) -> Iterator[None]:
    (folder / "keys").write_text(f"load {key}\n")
    command = [sys.executable, "-P", "-m", "densenet", "gateway", f"--listen=127.0.0.1:{port}", "--plain"]
    command += [f"--keys={folder / 'keys'}", "--rate=1000", f"--access-log={folder / 'access.log'}"]
    for replica in replicas:
        tokens = replica.place(".run") / "8080"
        command.append(f"--upstream={INFERENCE.format(address=replica.address)},{tokens}")
    log, environment = folder / "output", {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    with processes.running(command, log, environment, grace=60) as process:
        processes.wait_until_ready(lambda: "the gateway is up" in log.read_text(), process, seconds=60, log=log)
        yield


def under_load(fleet: Fleet, happens: Callable[[], object]) -> list[ImageResult]:
    """What CLIENTS saw who asked without a pause while something happened, and for two seconds before and after."""
    with Load(fleet.ask).running(CLIENTS) as load:
        time.sleep(2)
        happens()
        time.sleep(2)
    return load.outcomes


def outcomes(title: str, fleet: Fleet, happens: Callable[[], object]) -> tuple[list[ImageResult], int]:
    """What was seen, and how many requests the gateway asked again elsewhere; both replicas took part.

    Prints the counts, which stand in docs/deployment.md (scripts/test -n 0 -s shows them).
    """
    before = len(fleet.logged())
    seen = under_load(fleet, happens)
    logged = fleet.logged()[before:]
    again = sum("," in row["upstream_status"] for row in logged)
    right = sorted(one.seconds for one in seen if one.outcome == "right")
    counts = dict(Counter(one.outcome for one in seen))
    print(f"\n{title}: {counts}, {again} asked again, median {right[len(right) // 2]:.2f} s, longest {right[-1]:.2f} s")
    answered = {row["upstream"].rpartition("/")[2] for row in logged if row["upstream_status"] == "200"}
    assert len(answered) == len(fleet.replicas)
    assert counts.keys() == {"right"}
    return seen, again


def test_a_replica_that_dies_costs_no_answer(fleet: Fleet) -> None:
    victim = fleet.replicas[1]

    def dies_and_comes_back() -> None:
        victim.end()
        time.sleep(3)
        victim.start()
        victim.wait_ready()

    _, again = outcomes("killed, and started again", fleet, dies_and_comes_back)
    assert again > 0, "the dead one was asked, too"


def test_one_after_the_other_is_replaced_and_no_answer_is_lost(fleet: Fleet) -> None:
    ends = []

    def roll() -> None:
        for replica in fleet.replicas:
            ends.append(replica.stop())
            replica.start()
            replica.wait_ready()

    _, again = outcomes("rolled", fleet, roll)
    assert ends == [0, 0]
    assert again > 0, "those that drained and were down were asked, too"


def test_one_that_stands_still_holds_up_only_what_it_had(fleet: Fleet) -> None:
    victim = fleet.replicas[0]

    def stands_still() -> None:
        victim.signal_all(signal.SIGSTOP)
        try:
            time.sleep(4)
        finally:
            victim.signal_all(signal.SIGCONT)

    seen, _ = outcomes("stopped for 4 s, and continued", fleet, stands_still)
    held = [one for one in seen if one.seconds > 3]
    assert 1 <= len(held) <= CLIENTS, "some were held up, and the clients that were not went on"


def test_one_that_is_slow_is_asked_less(fleet: Fleet) -> None:
    victim, logged = fleet.replicas[0], list[int]()

    def slows_down() -> None:
        """It runs a fifth of the time: computing, reading and writing."""
        processes = victim.processes()
        logged.append(len(fleet.logged()))
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            for process in processes:
                process.suspend()
            time.sleep(0.2)
            for process in processes:
                process.resume()
            time.sleep(0.05)
        logged.append(len(fleet.logged()))

    outcomes("a fifth of the time for 8 s", fleet, slows_down)
    rows = fleet.logged()[slice(*logged)]
    asked = Counter(row["upstream"].rpartition("/")[2] for row in rows)
    slow, quick = (asked[f"{number}-{replica.address}-8080.sock"] for number, replica in enumerate(fleet.replicas))
    print(f"the slow one answered {slow}, the other {quick}")
    assert 0 < 1.5 * slow < quick
