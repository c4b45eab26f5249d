"""The scene of a fault: a service of its own, clients that ask it, and the answers that they should get."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from densenet.chaos import load, workload
from densenet.chaos.load import Load
from densenet.chaos.oracle import BAD, FAILED, Known, Outcome, Verdict, count, seconds_to_normal, tally
from densenet.chaos.plan import Check, Fault, Finding, at_least, at_most
from densenet.chaos.sender import Question
from densenet.service import temporary_instance
from densenet.service.torchserve import Service
from export.console import Problem

CLIENTS = 4
WORKERS = 2
BEFORE = AFTER = 15  # answers before a fault, and after it
PATIENCE = 180  # seconds after which nothing is waited for any more
SOON = 60  # seconds for a new worker; it takes three, and far more where other programs have the processor


@dataclass(frozen=True)
class Scene:
    """What every fault is tried with. folder: scratch, empty at first. minutes: of the mixed load.

    weights: what the archive was made of, if the eager network can be made of it, too.
    """

    archive: Path
    folder: Path
    minutes: float
    weights: str | None

    def scratch(self, name: str) -> Path:
        """An empty folder."""
        path = self.folder / name
        path.mkdir()
        return path

    @contextmanager
    def service(self, name: str, archive: Path | None = None) -> Iterator[Service]:
        """The archive's service, or another's, until the end of the block."""
        with temporary_instance.serving(archive or self.archive, self.scratch(name)) as service:
            yield service


@contextmanager
def steady(base: str, headers: Mapping[str, str] | None = None, clients: int = CLIENTS) -> Iterator[Load]:
    """Clients that send known photos; the block begins when some were answered, and ends after some more were."""
    asked = workload.photos()
    known = workload.learn(base, asked, headers)
    workload.check_different(known)
    with load.running(Load(base, pairs(asked, known), headers=headers), clients) as running:
        _wait(running, "before the fault")
        yield running
        _wait(running, "after the fault")


def pairs(asked: list[Question], known: list[Known]) -> list[tuple[Question, Known]]:
    """Each question with its answer."""
    return list(zip(asked, known, strict=True))


def _wait(running: Load, when: str) -> None:
    if not load.wait_for_answers(running, BEFORE, PATIENCE):
        raise Problem(f"clients had fewer than {BEFORE} answers within {PATIENCE} seconds {when}")


def finding(
    fault: Fault, done: str, outcomes: list[Outcome], injected: float, recovered: float | None, operator: list[str]
) -> Finding:
    """What clients saw, and how long until all was as before."""
    normal = seconds_to_normal(outcomes, injected, recovered)
    return Finding(fault, done, tally(outcomes), normal, operator, never_wrong(outcomes))


def never_wrong(outcomes: list[Outcome]) -> list[Check]:
    """What is expected under every fault."""
    return [
        at_least("right answers", count(outcomes, Verdict.RIGHT), 1),
        at_most("wrong or unclear answers", count(outcomes, *BAD), 0),
        at_most("requests without an answer in time", count(outcomes, Verdict.LATE), 0),
    ]


def failed(outcomes: list[Outcome]) -> int:
    """How many requests failed, one way or another."""
    return count(outcomes, *FAILED)
