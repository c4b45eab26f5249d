"""The network alone: every engine in a process that is kept, driven in turn, so that at most one of them is busy."""

import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np

from densenet.benchmark import machine, plan, processes
from densenet.benchmark.baselines import engines
from densenet.benchmark.plan import Engine, Part, System
from densenet.benchmark.record import tell
from densenet.benchmark.run import Run

THREADS = (1, 2)
_PASSES = 5  # timed ones of a round
_ROUNDS = 3  # turns of every engine in each of the run's rounds; they are short


def measure(run: Run) -> None:
    """Adds a row an engine, number of threads and turn: the median of milliseconds for one image."""
    for threads in THREADS:
        with ExitStack() as stack:
            connections = _start(run, threads, stack)
            for turn in range(run.effort.rounds * _ROUNDS):
                elsewhere = machine.Elsewhere()
                times = {}
                for one in plan.in_order(list(connections), turn):
                    with run.record.guarded(Part.NETWORK, f"{one.name}, {threads} thread(s), turn {turn + 1}"):
                        times[one] = _time(connections[one])
                beside = {"threads": threads, "elsewhere": elsewhere.share()}
                for engine, milliseconds in times.items():
                    run.record.add(Part.NETWORK, round=turn, engine=engine.name, milliseconds=milliseconds, **beside)
        tell(f"network alone, {threads} thread(s): {len(connections)} engines, {run.effort.rounds * _ROUNDS} rounds")


def serve(connection: Connection, system: System, precision: str, model: Path, threads: int) -> None:
    """The process of one engine: for every number that comes it answers as many times, in milliseconds."""
    try:
        network = engines.load(system, precision, model, threads=threads)
        batch = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
        batch = engines.lay_out(system, batch)
        connection.send(network(batch).shape)
    except Exception as error:
        connection.send(processes.problem(error))
        return
    while True:
        passes = connection.recv()
        network(batch)  # what lay in the caches belonged to another engine
        connection.send([_milliseconds(network, batch) for _ in range(passes)])


def _start(run: Run, threads: int, stack: ExitStack) -> dict[Engine, Connection]:
    found = {}
    for engine in run.engines:
        with run.record.guarded(Part.NETWORK, f"{engine.name}, {threads} thread(s)"):
            model = run.models.file(engine.system, engine.precision)
            arguments = (engine.system, engine.precision, model, threads)
            connection = stack.enter_context(processes.conversation(serve, *arguments))
            processes.receive(connection)
            found[engine] = connection
    return found


def _time(connection: Connection) -> float:
    connection.send(_PASSES)
    milliseconds: list[float] = processes.receive(connection)
    return median(milliseconds)


def _milliseconds(network: engines.Network, batch: engines.Floats) -> float:
    begun = time.perf_counter()
    network(batch)
    return 1000 * (time.perf_counter() - begun)
