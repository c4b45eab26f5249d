"""Everything that clients do, at once and for long: no answer wrong, nothing that grows."""

import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from densenet.chaos import leak_check, load, workload
from densenet.chaos.load import Load
from densenet.chaos.monitor import Log, sampling, whole
from densenet.chaos.oracle import Known, Outcome, Verdict, count
from densenet.chaos.plan import Check, Fault, Finding, at_least, at_most, equal
from densenet.chaos.scenario import Scene, failed, finding, pairs
from densenet.chaos.sender import Question, Way
from densenet.service.torchserve import Service, worker_processes

CLIENTS = 8
_SAMPLES = 120  # looks at every process, over the whole run
_LEAST_SECONDS = 0.5  # between two of them
_LOGGED = re.compile(r'"POST /\S+ HTTP/1\.1" \d+')


def load_for_long(scene: Scene) -> Finding:
    """Mixed load for scene.minutes; requests sent = answers counted, each compared with the known one."""
    mixed = workload.mixed()
    asked, weights = [question for question, _ in mixed], [weight for _, weight in mixed]
    photos = [one for one in asked if one.kind == "photo"]
    seconds = 60 * scene.minutes
    with scene.service("mixed") as service:
        log = Log(service)
        known = workload.learn(service.inference, asked)
        workload.check_different(known[: len(photos)])
        true = _eager(scene, photos, known[: len(photos)])
        before, lines = {worker.pid for worker in worker_processes(service)}, _access_lines(service)
        begun = time.monotonic()
        with (
            sampling(service, max(_LEAST_SECONDS, seconds / _SAMPLES)) as samples,
            load.running(Load(service.inference, pairs(asked, known), weights), CLIENTS) as running,
        ):
            time.sleep(seconds)
        ended = time.monotonic()
        workload.learn(service.inference, photos[:1])  # all is answered, and so all is logged
        logged, after = _access_lines(service) - lines - 1, {worker.pid for worker in worker_processes(service)}
        recovered = time.monotonic() if whole(service) else None
    done = (
        f"{CLIENTS} clients send good photos, bad input, large pictures, slow and aborted uploads for "
        f"{scene.minutes:g} minutes, and some leave before the answer."
    )
    found = finding(Fault.MIXED_LOAD, done, running.outcomes, ended, recovered, log.warnings())
    found.normal_after = None  # nothing broke
    found.samples = [asdict(sample) for sample in samples]
    found.notes = [true, f"{len(running.outcomes) / (ended - begun):.1f} requests a second."]
    found.checks += [
        *_counted(running, asked, logged),
        equal("workers that died or were replaced", len(before - after), 0),
        *leak_check.checks(samples),
    ]
    return found


def _eager(scene: Scene, photos: Sequence[Question], known: Sequence[Known]) -> str:
    if scene.weights is None:
        return "The known answers are the service's own, given before the load; there was no eager network to compare."
    number = workload.check_true(photos, known, scene.weights, scene.scratch("photos"))
    return f"The known answers to {number} photos are those of the eager network behind torchvision's transform, too."


def _counted(running: Load, asked: Sequence[Question], logged: int) -> list[Check]:
    """Each request has one outcome, every kind was right at least once, and TorchServe's own count agrees."""
    outcomes: Sequence[Outcome] = running.outcomes
    leaving = {one.kind for one in asked if one.way in (Way.ABORTED, Way.LEFT)}
    answered = [outcome for outcome in outcomes if outcome.kind not in leaving]
    whole_but_left = sum(outcome.kind in {one.kind for one in asked if one.way is Way.LEFT} for outcome in outcomes)
    kinds = {outcome.kind for outcome in answered if outcome.verdict is Verdict.RIGHT}
    return [
        equal("requests sent, and outcomes counted", (running.sent, len(outcomes)), (running.sent, running.sent)),
        equal("kinds of request without a right answer", sorted({one.kind for one in asked} - leaving - kinds), []),
        at_most("failed requests", failed(list(outcomes)), 0),
        at_most(
            "requests that were left on purpose and failed",
            count([outcome for outcome in outcomes if outcome.kind in leaving], Verdict.LOST),
            0,
        ),
        at_least("answers in TorchServe's access log", logged, len(answered)),
        at_most("answers in TorchServe's access log", logged, len(answered) + whole_but_left),
    ]


def _access_lines(service: Service) -> int:
    text = (Path(service.logs) / "access_log.log").read_text(errors="replace")
    return len(_LOGGED.findall(text))
