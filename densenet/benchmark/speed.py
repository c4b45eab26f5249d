"""Speed over HTTP: each contender is started, checked, put under its loads and ended, in every round."""

from pathlib import Path
from typing import Any

from densenet.benchmark import load, machine, plan, processes, serving
from densenet.benchmark.load import Address
from densenet.benchmark.plan import SMALL, Contender, Load, Part
from densenet.benchmark.record import tell
from densenet.benchmark.run import Run
from export.console import Problem

_EXACT = "fp32"  # the precision whose best class must be everybody's
_CLIENTS = 8  # of the warm-up


def measure(run: Run) -> None:
    """Adds a row a contender, load and round: images a second, latencies in milliseconds, refusals by status."""
    photo, expected = run.photos[SMALL][0], ""
    with run.record.guarded(Part.HTTP, "what eager torch says"):
        expected = processes.apart(eager_class, run.models.state, photo)
    for turn in range(run.effort.rounds):
        for contender in plan.in_order(run.contenders, turn):
            with run.record.guarded(Part.HTTP, f"{contender.name}, round {turn + 1}"):
                scratch = run.scratch(f"http-{turn}-{contender.name}")
                with serving.serve(contender, run.models, scratch) as address:
                    if contender.precision == _EXACT:
                        _check(address, photo, expected)
                    _measure(run, contender, address, turn, scratch)


def eager_class(state: Path, photo: Path) -> str:
    """The name of the class that eager torch puts first: what every service of the same weights must say."""
    from densenet.evaluation import eager

    source = eager.source(str(state), None)
    (outcome,) = source.ask([photo])
    return source.names[outcome.classes[0]]


def _check(address: Address, photo: Path, expected: str) -> None:
    if (found := serving.best_class(address, photo)) != expected:
        raise Problem(f"it says {found} of a photo where eager torch says {expected}; are these the same weights?")


def _measure(run: Run, contender: Contender, address: Address, turn: int, scratch: Path) -> None:
    wanted = plan.loads(contender, run.effort)
    for size in {one.size for one in wanted}:
        serving.warm_up(address, run.photos[size], _CLIENTS)
    for one in wanted:
        with run.record.guarded(Part.HTTP, f"{contender.name}, {one}, round {turn + 1}"):
            found = under_load(run, address, one, scratch)
            run.record.add(Part.HTTP, round=turn, contender=contender.name, load=str(one), **found)
            tell(f"{contender.name:20} {one!s:14} {found['throughput']:6.1f} images/s, p50 {found['p50']:5.0f} ms")


def under_load(run: Run, address: Address, one: Load, scratch: Path) -> dict[str, Any]:
    """One load for the seconds of a round, what the load generator itself took, and who else was busy."""
    seconds = run.effort.seconds + load.RAMP
    elsewhere = machine.Elsewhere()
    sent = load.send(address, run.photos[one.size], one.clients, seconds, scratch)
    beside = {"generator_ms": sent.cost, "elsewhere": elsewhere.share()}
    return load.summarise(sent.answers, seconds) | beside
