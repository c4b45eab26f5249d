"""The scenario of a fault: its own service, clients that send requests, and the expected answers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from densenet.chaos import workload
from densenet.chaos.load import JudgedLoad
from densenet.chaos.oracle import BAD, FAILED, Outcome, Verdict, count, seconds_to_normal, tally
from densenet.chaos.plan import Fault, Finding, at_least, at_most
from densenet.service import temporary_instance
from densenet.service.torchserve import Service

CLIENTS = 4
WORKERS = 2
ANSWERS = 15  # before a fault, and after it
SOON = 60  # seconds for a new worker; it takes three on an idle machine and far longer on a busy one


@dataclass(frozen=True)
class Scenario:
    """The inputs of every fault. folder: for scratch files, initially empty. minutes: duration of the mixed load.

    weights: the `export --weights` value of the archive, if the eager network can be built from it.
    """

    archive: Path
    folder: Path
    minutes: float
    weights: str | None

    def scratch(self, name: str) -> Path:
        """Create an empty folder."""
        path = self.folder / name
        path.mkdir()
        return path

    @contextmanager
    def service(self, name: str, archive: Path | None = None) -> Iterator[Service]:
        """Serve the scenario's archive, or another one, until the end of the block."""
        with temporary_instance.serving(archive or self.archive, self.scratch(name)) as service:
            yield service


@contextmanager
def steady(base: str, headers: Mapping[str, str] | None = None, clients: int = CLIENTS) -> Iterator[JudgedLoad]:
    """Run clients that send photos with known answers; wait for answers before and after the block."""
    requests = workload.photos()
    expected = workload.learn(base, requests, headers)
    workload.check_different(expected)
    with JudgedLoad(base, requests, expected, headers=headers).running(clients) as load:
        load.wait_for_answers(ANSWERS, "before the fault")
        yield load
        load.wait_for_answers(ANSWERS, "after the fault")


def make_finding(
    fault: Fault, done: str, outcomes: list[Outcome], injected: float, recovered: float | None, operator: list[str]
) -> Finding:
    """Return a finding with what clients saw, how long the recovery took, and the checks that apply to every fault."""
    normal = seconds_to_normal(outcomes, injected, recovered)
    checks = [
        at_least("right answers", count(outcomes, Verdict.RIGHT), 1),
        at_most("wrong or unclear answers", count(outcomes, *BAD), 0),
        at_most("requests without an answer in time", count(outcomes, Verdict.LATE), 0),
    ]
    return Finding(fault, done, tally(outcomes), normal, operator, checks)


def failed(outcomes: list[Outcome]) -> int:
    """Return how many requests failed in any way."""
    return count(outcomes, *FAILED)
