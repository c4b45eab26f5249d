"""Measure the network without HTTP: each engine has its own process, and they run in turn, one at a time."""

from contextlib import ExitStack, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np

from densenet.benchmark import machine, overhead, plan, subprocess_rpc
from densenet.benchmark.baselines import engines
from densenet.benchmark.plan import Engine, Part, System
from densenet.benchmark.record import log
from densenet.benchmark.run import Run
from densenet.benchmark.statistics import milliseconds
from densenet.service import allocator

THREADS = (1, 2)
_PASSES = 5  # timed passes per turn
_ROUNDS = 3  # turns of each engine per round of the run; they are short


def measure(run: Run) -> None:
    """Add a row for each engine, number of threads and turn: median milliseconds for one image.

    Our network has the memory allocator of the service's workers. Then measure what it costs beside its kernels.
    """
    for threads in THREADS:
        with ExitStack() as stack:
            connections = _start(run, threads, stack)
            for turn in range(run.effort.rounds * _ROUNDS):
                elsewhere = machine.Elsewhere()
                times: dict[Engine, float] = {}
                for engine in plan.in_order(list(connections), turn):
                    with run.record.guarded(Part.NETWORK, f"{engine.name}, {threads} thread(s), turn {turn + 1}"):
                        connections[engine].send(_PASSES)
                        times[engine] = median(subprocess_rpc.receive(connections[engine]))
                beside = {"threads": threads, "elsewhere": elsewhere.share()}
                for engine, milliseconds in times.items():
                    run.record.add(Part.NETWORK, round=turn, engine=engine.name, milliseconds=milliseconds, **beside)
        log(f"network, {threads} thread(s): {len(connections)} engines, {run.effort.rounds * _ROUNDS} rounds")
    overhead.measure(run)


def serve(connection: Connection, system: System, precision: str, model: Path, threads: int) -> None:
    """Run one engine in a subprocess: for each received number of passes, send that many times in milliseconds."""
    try:
        network = engines.load(system, precision, model, threads=threads)
        batch = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
        batch = engines.lay_out(system, batch)
        connection.send(network(batch).shape)
    except Exception as error:
        connection.send(subprocess_rpc.to_cli_error(error))
        return
    while True:
        passes = connection.recv()
        network(batch)  # warm the caches, which hold another engine's data
        connection.send([milliseconds(network, batch) for _ in range(passes)])


def _start(run: Run, threads: int, stack: ExitStack) -> dict[Engine, Connection]:
    connections = {}
    for engine in run.engines:
        with run.record.guarded(Part.NETWORK, f"{engine.name}, {threads} thread(s)"):
            model = run.models.file(engine.system, engine.precision)
            arguments = (engine.system, engine.precision, model, threads)
            ours = engine.system is System.OURS
            with subprocess_rpc.using(allocator.python(run.folder)) if ours else nullcontext():
                connection = stack.enter_context(subprocess_rpc.start(serve, *arguments))
            subprocess_rpc.receive(connection)
            connections[engine] = connection
    return connections
