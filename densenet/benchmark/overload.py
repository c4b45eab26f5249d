"""Overload: many more clients at once than the queue holds. Who is refused, what others get, what comes after."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import requests

from densenet.benchmark import load, serving, speed
from densenet.benchmark.load import Address, Answer
from densenet.benchmark.plan import SMALL, Load, Part
from densenet.benchmark.record import tell
from densenet.benchmark.run import Run

CLIENTS = 200
WORKERS = 2
WAIT_AFTER_REFUSAL = 1.0  # seconds, as a client does that means well
_SATURATING = (8, 32)  # clients, of which the better one is the best throughput
_SECONDS = 8
_PROBE_PAUSE = 0.02  # seconds between an answer and the next probe
_BEFORE, _AFTER = 2.0, 4.0  # seconds of probing without any other load
NORMAL = 1.5  # times the median latency before, up to which a latency is normal
_UNAVAILABLE = 503


@dataclass(frozen=True)
class Probe:
    """One request beside the load: when it began and ended (seconds since 1970), and its status."""

    begun: float
    ended: float
    status: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.begun


def measure(run: Run) -> None:
    """Adds a row a precision and round."""
    for precision in run.precisions:
        for turn in range(run.effort.rounds):
            with run.record.guarded(Part.OVERLOAD, f"{precision}, round {turn + 1}"):
                scratch = run.scratch(f"overload-{turn}-{precision}")
                with serving.ours(precision, WORKERS, run.models, scratch) as service:
                    row = _overload(run, Address(service.url), scratch)
                run.record.add(Part.OVERLOAD, round=turn, precision=precision, **row)
                tell(
                    f"{CLIENTS} clients, {precision}: {row['throughput']:.1f} images/s, {row['best']:.1f} at best, "
                    f"others {row['others']}, normal after {row['seconds_to_normal']} s"
                )


def clear(answer: Answer) -> bool:
    """Whether a refusal is a 503 that says in words what is the matter."""
    return answer.status == _UNAVAILABLE and '"message"' in answer.text


def seconds_to_normal(probes: Sequence[Probe], begun: float, ended: float) -> float | None:
    """From the end of a load to the first of the probes that are all answered, and as fast as before the load began.

    A single slow one of those that follow is anybody's scheduler. None where they are never as fast again.
    """
    before = [probe.seconds for probe in probes if probe.ended <= begun]
    after = [probe for probe in probes if probe.begun >= ended]
    limit = NORMAL * median(before)
    normal = [probe.status == load.OK and probe.seconds <= limit for probe in after]
    for i, probe in enumerate(after):
        if normal[i] and sum(normal[i:]) >= 0.9 * len(normal[i:]):
            return max(0.0, probe.begun - ended)
    return None


def _overload(run: Run, address: Address, scratch: Path) -> dict[str, Any]:
    photos = run.photos[SMALL]
    serving.warm_up(address, photos, WORKERS * 2)
    rates = [speed.under_load(run, address, Load(SMALL, clients), scratch) for clients in _SATURATING]
    seconds = _SECONDS + load.RAMP
    with _probing(address, photos[0]) as probes:
        time.sleep(_BEFORE)
        sent = load.send(address, photos, CLIENTS, seconds, scratch, wait_after_refusal=WAIT_AFTER_REFUSAL)
        time.sleep(_AFTER)
    begun = min(answer.finished - answer.milliseconds / 1000 for answer in sent.answers)
    unclear = [answer for answer in sent.answers if answer.status != load.OK and not clear(answer)]
    return load.summarise(sent.answers, seconds) | {
        "best": max(rate["throughput"] for rate in rates),
        "unclear": len(unclear),
        "examples": [f"{answer.status} {answer.text}" for answer in unclear[:3]],
        "seconds_to_normal": seconds_to_normal(probes, begun, sent.answers[-1].finished),
    }


@contextmanager
def _probing(address: Address, photo: Path) -> Iterator[list[Probe]]:
    """One client of its own that asks again and again, until the end of the block."""
    probes: list[Probe] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(_PROBE_PAUSE):
            begun = time.time()
            try:
                status = serving.ask(address, photo).status_code
            except requests.RequestException:  # no answer: TorchServe ends a refused connection by a reset
                status = 0
            probes.append(Probe(begun, time.time(), status))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield probes
    finally:
        over.set()
        thread.join()
