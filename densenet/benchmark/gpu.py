"""Measure the throughput on a GPU by batch size: eager, compiled, and exported in fp16."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from densenet.benchmark import plan, subprocess_rpc
from densenet.benchmark.plan import Part, System
from densenet.benchmark.record import log
from densenet.benchmark.run import Run

BATCHES = (1, 8, 32, 128)
EAGER, COMPILED, OURS = "eager fp32", "torch.compile fp16, channels last", "ours fp16"
_SECONDS = 1  # for each batch size, way and round


def measure(run: Run) -> None:
    """Add a row for each batch size, way and round: images per second. Do nothing without a GPU."""
    import torch

    if not torch.cuda.is_available():
        log("no GPU on this machine")
        return
    with run.record.guarded(Part.GPU, "GPU"):
        exported, state = run.models.exported("fp16"), run.models.file(System.EAGER, "fp32")
        for row in subprocess_rpc.run(throughputs, exported, state, run.effort.rounds):
            run.record.add(Part.GPU, **row)
        log(f"GPU: {len(BATCHES)} batch sizes, {run.effort.rounds} rounds")


def throughputs(exported: Path, state: Path, rounds: int) -> list[dict[str, Any]]:
    """Return the rows. exported: folder of the fp16 export. state: state dict of the same weights."""
    import torch

    with torch.inference_mode():
        ways = _ways(exported, state)
        batches = {count: torch.randn(count, 3, 224, 224, device="cuda") for count in BATCHES}
        every = [(way, count) for count in BATCHES for way in ways]
        for way, count in every:  # compiles the network and selects kernels for the shape
            for _ in range(3):
                ways[way](batches[count])
        return [
            {"round": turn, "way": way, "batch": count, "throughput": _throughput(ways[way], batches[count])}
            for turn in range(rounds)
            for way, count in plan.in_order(every, turn)
        ]


def _ways(exported: Path, state: Path) -> dict[str, Callable[[Any], object]]:
    import torch

    from export import NETWORK, network
    from handler import scoring

    weights = torch.load(state, weights_only=True)
    eager = network.build(weights).cuda()
    half = network.build(weights).half().cuda().to(memory_format=torch.channels_last)
    compiled: Callable[[Any], Any] = torch.compile(half, dynamic=False)
    ours = scoring.read((exported / NETWORK).read_bytes(), torch.device("cuda"))
    return {
        EAGER: lambda images: eager(images).cpu(),
        COMPILED: lambda images: compiled(images.half().to(memory_format=torch.channels_last)).cpu(),
        OURS: ours,
    }


def _throughput(network: Callable[[Any], object], images: Any) -> float:
    """Return images per second, from a batch on the GPU to logits on the CPU."""
    import torch

    torch.cuda.synchronize()
    passes, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < _SECONDS:
        network(images)
        torch.cuda.synchronize()
        passes += 1
    return passes * len(images) / (time.perf_counter() - begun)
