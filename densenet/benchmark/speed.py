"""Measure speed over HTTP: in every round start each system, check it, run its loads and stop it."""

from pathlib import Path
from typing import Any

from densenet.benchmark import load, machine, plan, serving, subprocess_rpc
from densenet.benchmark.load import Address
from densenet.benchmark.plan import SMALL, Load, Part, ServedSystem
from densenet.benchmark.record import log
from densenet.benchmark.run import Run
from export.console import CliError

_EXACT = "fp32"  # the precision in which all systems must agree on the best class
_CLIENTS = 8  # for the warm-up


def measure(run: Run) -> None:
    """Add a row for each system, load and round: images per second, latencies in ms, refusals by status."""
    photo, expected = run.photos[SMALL][0], ""
    with run.record.guarded(Part.HTTP, "prediction of eager torch"):
        expected = subprocess_rpc.run(eager_class, run.models.state, photo)
    for turn in range(run.effort.rounds):
        for served in plan.in_order(run.served_systems, turn):
            with run.record.guarded(Part.HTTP, f"{served.name}, round {turn + 1}"):
                scratch = run.scratch(f"http-{turn}-{served.name}")
                with serving.serve(served, run.models, scratch) as address:
                    if served.precision == _EXACT:
                        _check(address, photo, expected)
                    _measure(run, served, address, turn, scratch)


def eager_class(state: Path, photo: Path) -> str:
    """Return the name of eager torch's best class, which every service with the same weights must predict."""
    from densenet.evaluation import eager

    source = eager.source(str(state), None)
    (outcome,) = source.predict([photo])
    return source.names[outcome.classes[0]]


def _check(address: Address, photo: Path, expected: str) -> None:
    if (predicted := serving.best_class(address, photo)) != expected:
        raise CliError(f"the service predicts {predicted}, eager torch {expected}; check that the weights are the same")


def _measure(run: Run, served: ServedSystem, address: Address, turn: int, scratch: Path) -> None:
    loads = plan.loads(served, run.effort)
    for size in {clients.size for clients in loads}:
        serving.warm_up(address, run.photos[size], _CLIENTS)
    for clients in loads:
        with run.record.guarded(Part.HTTP, f"{served.name}, {clients}, round {turn + 1}"):
            row = under_load(run, address, clients, scratch)
            run.record.add(Part.HTTP, round=turn, contender=served.name, load=str(clients), **row)
            log(f"{served.name:20} {clients!s:14} {row['throughput']:6.1f} images/s, p50 {row['p50']:5.0f} ms")


def under_load(run: Run, address: Address, clients: Load, scratch: Path) -> dict[str, Any]:
    """Run one load; return its summary, the load generator's CPU time and the CPU share of other programs."""
    seconds = run.effort.seconds + load.RAMP
    elsewhere = machine.Elsewhere()
    sent = load.send(address, run.photos[clients.size], clients.clients, seconds, scratch)
    beside = {"generator_ms": sent.cost, "elsewhere": elsewhere.share()}
    return load.summarise(sent.answers, seconds) | beside
