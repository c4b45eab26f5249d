"""Load: clients against an address, by locust in a process of its own, and what they measured."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from densenet.benchmark import processes
from export.console import Problem

RAMP = 1  # seconds in which connections are made, and nothing is counted
_PATIENCE = 120  # seconds for the last answers; locust would cut them off
OK = 200


@dataclass(frozen=True)
class Address:
    """Where photos are sent, and how: as the part of a form, or as the body where `part` is None."""

    url: str
    part: str | None = None


@dataclass(frozen=True)
class Answer:
    """One request: when it ended (seconds since 1970), how long it took, and, of a refusal, what it said.

    A status of 0: no answer came.
    """

    finished: float
    milliseconds: float
    status: int
    text: str


@dataclass(frozen=True)
class Sent:
    """What one run of the load generator did. cpu_seconds: its own."""

    answers: tuple[Answer, ...]
    cpu_seconds: float

    @property
    def cost(self) -> float:
        """The load generator's own milliseconds of CPU a request."""
        return 1000 * self.cpu_seconds / max(1, len(self.answers))


def send(
    address: Address,
    photos: Sequence[Path],
    clients: int,
    seconds: int,
    scratch: Path,
    *,
    wait_after_refusal: float = 0,
) -> Sent:
    """So many clients for so many seconds, ramp included; those under way are waited for. Raises Problem."""
    url = urlsplit(address.url)
    job, answers = scratch / "job.json", scratch / "answers.json"
    answers.unlink(missing_ok=True)
    content = {
        "host": f"{url.scheme}://{url.netloc}",
        "path": url.path,
        "part": address.part,
        "photos": [str(photo) for photo in photos],
        "wait_after_refusal": wait_after_refusal,
        "answers": str(answers),
    }
    job.write_text(json.dumps(content))
    processes.run(
        "locust",
        *("--locustfile", str(Path(__file__).with_name("locustfile.py")), "--headless", "--only-summary"),
        *("--users", str(clients), "--spawn-rate", str(clients), "--run-time", f"{seconds}s"),
        *("--stop-timeout", str(_PATIENCE), "--exit-code-on-error", "0"),
        log=scratch / "locust.log",
        BENCHMARK_JOB=str(job),
    )
    return read(answers.read_text())


def read(text: str) -> Sent:
    """What locustfile.py wrote, in the order in which the requests ended."""
    document = json.loads(text)
    answers = sorted((Answer(*row) for row in document["answers"]), key=lambda answer: answer.finished)
    return Sent(tuple(answers), document["cpu_seconds"])


def summarise(answers: Sequence[Answer], seconds: int) -> dict[str, Any]:
    """Images a second and milliseconds of the right answers after the ramp; refusals and failures by status.

    seconds: how long was sent, the ramp included. Raises Problem where there are too few right answers to say anything.
    """
    first = min((answer.finished - answer.milliseconds / 1000 for answer in answers), default=0.0)
    counted = [answer for answer in answers if first + RAMP <= answer.finished <= first + seconds]
    right = [answer for answer in counted if answer.status == OK]
    others = Counter(str(answer.status) for answer in answers if answer.status != OK)
    if len(right) < 2:
        raise Problem(f"{len(right)} right answers in {seconds - RAMP} seconds, others by status: {dict(others)}")
    times = sorted(answer.milliseconds for answer in right)
    return {
        # From answer to answer: counting those within a given time would be wrong by up to one of them.
        "throughput": (len(right) - 1) / max(1e-9, right[-1].finished - right[0].finished),
        "p50": quantile(times, 50),
        "p95": quantile(times, 95),
        "answers": len(right),
        "others": dict(others),
    }


def quantile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent of them do not exceed, interpolated."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]
