"""Engines: load a network file into a function from float32 (1, 3, 224, 224) to float32 logits (1, classes)."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from densenet.benchmark.plan import System

if TYPE_CHECKING:  # torch is imported by the engines that need it, not beside the others
    from handler import scoring

Floats = NDArray[np.float32]
Network = Callable[[Floats], Floats]
# OpenVINO's precision of computation. Without the hint it uses bf16 on newer processors, even for fp32 files.
_OPENVINO_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}


def load(system: System, precision: str, model: Path, *, threads: int, concurrency: int = 1) -> Network:
    """Load a network as the system runs it.

    threads: per image. concurrency: threads that call the function at once; used by OpenVINO only.

    Raises: ValueError if the system is not an engine.
    """
    match system:
        case System.EAGER:
            return _eager(model, threads)
        case System.OURS:
            return _ours(model, threads)
        case System.OPENVINO:
            return _openvino(model, precision, threads, concurrency)
        case System.ONNXRUNTIME:
            return _onnxruntime(model, threads)
    raise ValueError(f"{system} is not an engine")


def lay_out(system: System, batch: Floats) -> Floats:
    """Return the batch in the memory layout of the system's own transform: channels last for ours."""
    return np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if system is System.OURS else batch


def load_ours(exported: Path, threads: int) -> "scoring.Network":
    """Load this project's network as a worker does. exported: folder of an export."""
    from export import CARD, NETWORK
    from handler import scoring

    digest = json.loads((exported / CARD).read_text())["network"]["sha256"]
    return scoring.load(exported / NETWORK, sha256=digest, threads=threads, device=scoring.CPU)


def _eager(state: Path, threads: int) -> Network:
    import torch

    from export import network

    torch.set_num_threads(threads)
    eager = network.build(torch.load(state, weights_only=True))

    def run(batch: Floats) -> Floats:
        with torch.inference_mode():
            logits: Floats = eager(torch.from_numpy(batch)).numpy()
        return logits

    return run


def _ours(exported: Path, threads: int) -> Network:
    import torch

    from handler import scoring

    network = load_ours(exported, threads)

    def run(batch: Floats) -> Floats:
        logits: Floats = scoring.score(network, torch.from_numpy(batch), chunk=1, threads=threads).logits.numpy()
        return logits

    return run


def _openvino(model: Path, precision: str, threads: int, concurrency: int) -> Network:
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY" if concurrency == 1 else "THROUGHPUT",
        "NUM_STREAMS": concurrency,
        "INFERENCE_NUM_THREADS": threads * concurrency,
        "INFERENCE_PRECISION_HINT": _OPENVINO_HINTS[precision],
        "ENABLE_CPU_PINNING": False,  # the load generator runs on the same cores
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    own = threading.local()

    def run(batch: Floats) -> Floats:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        own.request.infer({0: batch}, share_inputs=True)
        logits: Floats = own.request.get_output_tensor().data
        return logits

    return run


def _onnxruntime(model: Path, threads: int) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: Floats) -> Floats:
        logits: Floats = session.run(None, {name: batch})[0]
        return logits

    return run
