"""Measure what our network costs beside oneDNN's kernels: the time outside them, and operator calls."""

import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet.benchmark import subprocess_rpc
from densenet.benchmark.baselines import engines
from densenet.benchmark.plan import Part, System
from densenet.benchmark.record import OVERHEAD, log
from densenet.benchmark.run import Run
from densenet.service import allocator
from export.console import CliError

if TYPE_CHECKING:  # torch must not be imported in the process that starts the others
    import torch

    from handler.scoring import Network

_PASSES = 15  # of each kind per round
_WARM_UPS = 3


def measure(run: Run) -> None:
    """Add the rows of times() for each of our precisions, with the workers' memory allocator."""
    for precision in (engine.precision for engine in run.engines if engine.system is System.OURS):
        with run.record.guarded(Part.NETWORK, f"overhead, {precision}"):
            with subprocess_rpc.using(allocator.python(run.folder)):
                rows = subprocess_rpc.run(times, run.models.exported(precision), run.effort.rounds)
            for row in rows:
                run.record.add(OVERHEAD, precision=precision, **row)
            log(f"overhead, {precision}: {rows[0]['outside_ms']:.1f} ms, {rows[0]['operator_calls']} operator calls")


def times(exported: Path, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each round: one image on one thread. Needs a process of its own, since it takes over stdout.

    exported: folder of an export. The keys of a row:

    - cpu_ms: CPU time of a whole pass, without oneDNN's verbose mode; the median of several passes. CPU time, since
      another program that takes the core for a while would count as time outside the kernels.
    - kernels_ms: time inside oneDNN's kernels, as its verbose mode reports it of passes in between: the sum of the
      medians of each call.
    - outside_ms: the difference of the two.
    - operator_calls: see operator_calls().

    Raises: CliError if oneDNN reports nothing, as in a build of torch without it.
    """
    import torch

    network = engines.load_ours(exported, threads=1)
    batch = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    images = torch.from_numpy(engines.lay_out(System.OURS, batch))
    with tempfile.TemporaryFile() as report:
        os.dup2(report.fileno(), 1)  # oneDNN prints past Python's sys.stdout
        return [{"round": turn, **_round(network, images, report.fileno())} for turn in range(rounds)]


def executions(verbose: str) -> list[float]:
    """Return the milliseconds of each execution in oneDNN's verbose output.

    Raises: CliError if there are none.
    """
    lines = [line for line in verbose.splitlines() if line.startswith("onednn_verbose,") and ",exec," in line]
    if not lines:
        raise CliError("oneDNN reports no execution; this build of torch does not use it")
    return [float(line.rpartition(",")[2]) for line in lines]


def operator_calls(network: "Network", images: "torch.Tensor") -> int:
    """Return the number of operator calls of a pass, as torch's profiler counts them.

    These are the calls that the TorchScript interpreter makes, and those that these make in turn. aten::as_strided is
    left out: slice, permute and split are implemented by it, so it would count them twice.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        network.head(network.features(images))
    names = [event.name for event in profiled.events() or ()]
    # Names without a namespace are those of functions, such as forward.
    return sum("::" in name and name != "aten::as_strided" for name in names)


def _round(network: "Network", images: "torch.Tensor", report: int) -> dict[str, float]:
    from torch.backends import mkldnn

    from handler import scoring

    for _ in range(_WARM_UPS):
        scoring.score(network, images, chunk=1)
    passes, calls = [], []
    for _ in range(_PASSES):
        begun = time.thread_time()
        scoring.score(network, images, chunk=1)
        passes.append(1000 * (time.thread_time() - begun))
        begin = os.fstat(report).st_size
        with mkldnn.verbose(mkldnn.VERBOSE_ON):
            scoring.score(network, images, chunk=1)
        calls.append(executions(os.pread(report, os.fstat(report).st_size - begin, begin).decode()))
    whole, kernels = median(passes), sum(median(call) for call in zip(*calls, strict=True))
    return {
        "cpu_ms": whole,
        "kernels_ms": kernels,
        "outside_ms": whole - kernels,
        "operator_calls": operator_calls(network, images),
    }
