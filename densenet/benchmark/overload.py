"""Measure an overload: more concurrent clients than the queue holds, and the recovery afterwards."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import requests

from densenet.background import repeating
from densenet.benchmark import load, serving, speed
from densenet.benchmark.load import Address, Answer
from densenet.benchmark.plan import SMALL, Load, Part
from densenet.benchmark.record import log
from densenet.benchmark.run import Run

CLIENTS = 200
WORKERS = 2
WAIT_AFTER_REFUSAL = 1.0  # seconds, as a well-behaved client waits
_SATURATING = (8, 32)  # numbers of clients; the better result is the best throughput
_SECONDS = 8
_PROBE_PAUSE = 0.02  # seconds between an answer and the next probe
_BEFORE, _AFTER = 2.0, 4.0  # seconds of probing without any other load
NORMAL = 1.5  # a latency is normal up to this multiple of the median before the load
_UNAVAILABLE = 503


@dataclass(frozen=True)
class Probe:
    """One request during the load: when it began and ended (seconds since 1970), and its status."""

    begun: float
    ended: float
    status: int

    @property
    def seconds(self) -> float:
        """Return the duration in seconds."""
        return self.ended - self.begun


def measure(run: Run) -> None:
    """Add a row for each precision and round."""
    for precision in run.precisions:
        for turn in range(run.effort.rounds):
            with run.record.guarded(Part.OVERLOAD, f"{precision}, round {turn + 1}"):
                scratch = run.scratch(f"overload-{turn}-{precision}")
                with serving.ours(precision, WORKERS, run.models, scratch) as service:
                    row = _overload(run, Address(service.url), scratch)
                run.record.add(Part.OVERLOAD, round=turn, precision=precision, **row)
                log(
                    f"{CLIENTS} clients, {precision}: {row['throughput']:.1f} images/s, {row['best']:.1f} at best, "
                    f"others {row['others']}, normal after {row['seconds_to_normal']} s"
                )


def clear(answer: Answer) -> bool:
    """Return whether a refusal is a 503 with a message."""
    return answer.status == _UNAVAILABLE and '"message"' in answer.text


def seconds_to_normal(probes: Sequence[Probe], begun: float, ended: float) -> float | None:
    """Return the seconds from the end of a load until probes are answered as fast as before the load.

    From then on nine in ten probes must be normal, because a few may be slow due to scheduling. Return None if they
    never are.
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
    """Run one more client that sends requests until the end of the block, and collect its probes."""
    probes: list[Probe] = []

    def probe() -> None:
        begun = time.time()
        try:
            status = serving.send(address, photo).status_code
        except requests.RequestException:  # no answer: TorchServe resets refused connections
            status = 0
        probes.append(Probe(begun, time.time(), status))

    with repeating(probe, _PROBE_PAUSE):
        yield probes
