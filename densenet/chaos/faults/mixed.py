"""A long load of mixed requests: no answer may be wrong and no resource may grow."""

import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from densenet.chaos import leak_check, workload
from densenet.chaos.load import JudgedLoad
from densenet.chaos.monitor import Log, healthy, sampling
from densenet.chaos.oracle import Expected, Outcome, Verdict, count
from densenet.chaos.plan import Check, Fault, Finding, at_least, at_most, equal
from densenet.chaos.scenario import Scenario, failed, make_finding
from densenet.chaos.sender import ClientRequest, Way
from densenet.service.torchserve import Service, worker_processes

CLIENTS = 8
_SAMPLES = 120  # per process, over the entire run
_MIN_INTERVAL = 0.5  # seconds between two samples
_LOGGED = re.compile(r'"POST /\S+ HTTP/1\.1" \d+')


def load_for_long(scenario: Scenario) -> Finding:
    """Run the mixed load for scenario.minutes; count every request and compare every answer with the expected one."""
    mixed = workload.mixed()
    requests, weights = [request for request, _ in mixed], [weight for _, weight in mixed]
    photos = [request for request in requests if request.kind == "photo"]
    seconds = 60 * scenario.minutes
    with scenario.service("mixed") as service:
        log = Log(service)
        expected = workload.learn(service.inference, requests)
        workload.check_different(expected[: len(photos)])
        eager_note = _eager(scenario, photos, expected[: len(photos)])
        before, lines = {worker.pid for worker in worker_processes(service)}, _access_lines(service)
        begun = time.monotonic()
        with (
            sampling(service, max(_MIN_INTERVAL, seconds / _SAMPLES)) as samples,
            JudgedLoad(service.inference, requests, expected, weights).running(CLIENTS) as load,
        ):
            time.sleep(seconds)
        ended = time.monotonic()
        workload.learn(service.inference, photos[:1])  # when this is answered, all earlier requests are logged
        logged, after = _access_lines(service) - lines - 1, {worker.pid for worker in worker_processes(service)}
        recovered = time.monotonic() if healthy(service) else None
    done = (
        f"{CLIENTS} clients send valid photos, bad input, large images, and slow and aborted uploads for "
        f"{scenario.minutes:g} minutes. Some of them disconnect before the answer."
    )
    result = make_finding(Fault.MIXED_LOAD, done, load.outcomes, ended, recovered, log.warnings())
    result.normal_after = None  # nothing broke
    result.samples = [asdict(sample) for sample in samples]
    result.notes = [eager_note, f"{len(load.outcomes) / (ended - begun):.1f} requests per second."]
    result.checks += [
        *_counted(load, requests, logged),
        equal("workers that died or were replaced", len(before - after), 0),
        *leak_check.checks(samples),
    ]
    return result


def _eager(scenario: Scenario, photos: Sequence[ClientRequest], expected: Sequence[Expected]) -> str:
    if scenario.weights is None:
        return "The expected answers are the service's own, recorded before the load; no eager network was available."
    number = workload.check_true(photos, expected, scenario.weights, scenario.scratch("photos"))
    return f"The expected answers to {number} photos agree with the eager network behind torchvision's transform."


def _counted(load: JudgedLoad, requests: Sequence[ClientRequest], logged: int) -> list[Check]:
    """Check that each request has one outcome, each kind was right once, and TorchServe's count agrees."""
    outcomes: Sequence[Outcome] = load.outcomes
    leaving = {request.kind for request in requests if request.way in (Way.ABORTED, Way.LEFT)}
    answered = [outcome for outcome in outcomes if outcome.kind not in leaving]
    left = {request.kind for request in requests if request.way is Way.LEFT}
    fully_sent_but_left = sum(outcome.kind in left for outcome in outcomes)
    kinds = {outcome.kind for outcome in answered if outcome.verdict is Verdict.RIGHT}
    return [
        equal("requests sent and outcomes counted", (load.sent, len(outcomes)), (load.sent, load.sent)),
        equal(
            "kinds of request without a right answer",
            sorted({request.kind for request in requests} - leaving - kinds),
            [],
        ),
        at_most("failed requests", failed(list(outcomes)), 0),
        at_most(
            "connections lost before the client disconnected",
            count([outcome for outcome in outcomes if outcome.kind in leaving], Verdict.LOST),
            0,
        ),
        at_least("answers in TorchServe's access log", logged, len(answered)),
        at_most("answers in TorchServe's access log", logged, len(answered) + fully_sent_but_left),
    ]


def _access_lines(service: Service) -> int:
    text = (Path(service.logs) / "access_log.log").read_text(errors="replace")
    return len(_LOGGED.findall(text))
