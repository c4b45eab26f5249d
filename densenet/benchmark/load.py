"""Load: run locust clients against an address in a subprocess and read their measurements."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from densenet import processes
from export.console import CliError

RAMP = 1  # seconds for opening connections; their requests are not counted
_STOP_TIMEOUT = 120  # seconds for the last answers; without it locust cancels them
OK = 200


@dataclass(frozen=True)
class Address:
    """The URL that receives photos. part: name of the form part, or None to send the photo as the body."""

    url: str
    part: str | None = None


@dataclass(frozen=True)
class Answer:
    """One request: when it ended (seconds since 1970), how long it took, its status, and the text of an error.

    A status of 0 means that no answer came.
    """

    finished: float
    milliseconds: float
    status: int
    text: str


@dataclass(frozen=True)
class Sent:
    """The result of one run of the load generator. cpu_seconds: CPU time of the load generator itself."""

    answers: tuple[Answer, ...]
    cpu_seconds: float

    @property
    def cost(self) -> float:
        """Return the load generator's CPU time per request, in milliseconds."""
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
    """Run clients for some seconds, ramp included, and wait for requests in flight.

    Raises: CliError if locust fails.
    """
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
        *("--stop-timeout", str(_STOP_TIMEOUT), "--exit-code-on-error", "0"),
        log=scratch / "locust.log",
        BENCHMARK_JOB=str(job),
    )
    return read(answers.read_text())


def read(text: str) -> Sent:
    """Read the file that locustfile.py wrote; sort the answers by the time at which they ended."""
    document = json.loads(text)
    answers = sorted((Answer(*row) for row in document["answers"]), key=lambda answer: answer.finished)
    return Sent(tuple(answers), document["cpu_seconds"])


def summarise(answers: Sequence[Answer], seconds: int) -> dict[str, Any]:
    """Return images per second and latencies (ms) of successful answers after the ramp, and other answers by status.

    seconds: duration of the load, ramp included.

    Raises: CliError if there are fewer than two successful answers.
    """
    first = min((answer.finished - answer.milliseconds / 1000 for answer in answers), default=0.0)
    counted = [answer for answer in answers if first + RAMP <= answer.finished <= first + seconds]
    right = [answer for answer in counted if answer.status == OK]
    others = Counter(str(answer.status) for answer in answers if answer.status != OK)
    if len(right) < 2:
        raise CliError(f"{len(right)} right answers in {seconds - RAMP} seconds, others by status: {dict(others)}")
    times = sorted(answer.milliseconds for answer in right)
    return {
        # Measured from the first to the last answer; counting answers in a fixed time is off by up to one of them.
        "throughput": (len(right) - 1) / max(1e-9, right[-1].finished - right[0].finished),
        "p50": quantile(times, 50),
        "p95": quantile(times, 95),
        "answers": len(right),
        "others": dict(others),
    }


def quantile(values: Sequence[float], percent: int) -> float:
    """Return the interpolated percentile of the values."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]
