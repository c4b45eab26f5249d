"""Score: compute logits of a batch of tensors with the TorchScript network."""

import functools
import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handler import PARTS
from handler.cropping import CROP

CPU = torch.device("cpu")

# These operations arrange weights in the best layout for the current processor. Packed weights cannot be saved, so the
# file contains the original weights and calls of these operations.
_PACKING = (
    "mkldnn::_reorder_linear_weight",
    "mkldnn::_reorder_convolution_weight",
    "onednn::qlinear_prepack",
    "onednn::qconv_prepack",
)


@dataclass(frozen=True)
class Network:
    """The exported network in two parts, each frozen."""

    features: torch.jit.ScriptModule
    """Maps float32 (N, 3, 224, 224), normalized, to float32 activations (N, 49, 1024) at the 7 × 7 positions."""
    head: torch.jit.ScriptModule
    """Maps activations (N, P, 1024) at any P positions to float32 logits (N, classes)."""
    device: torch.device
    """The device of both parts."""

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return activations (N, 49, 1024), on the network's device. images: float32 (N, 3, 224, 224), normalized."""
        activations: torch.Tensor = self.features(images.to(self.device))
        return activations

    def forward_head(self, activations: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) on the CPU. activations: float32 (N, P, 1024)."""
        logits: torch.Tensor = self.head(activations.to(self.device))
        return logits.cpu()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) on the CPU. images: float32 (N, 3, 224, 224), normalized."""
        return self.forward_head(self.forward_features(images))


@dataclass(frozen=True)
class Scores:
    """The network's outputs for N images."""

    logits: torch.Tensor
    """float32 (N, classes)."""
    activations: Sequence[torch.Tensor]
    """float32 (49, 1024) for each image: views of the batch's activations, not copies."""


def is_lost(network: Network) -> bool:
    """Return whether the network's GPU has failed permanently: after some errors every CUDA call fails."""
    if network.device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(network.device)
    except RuntimeError:
        return True
    return False


def load(path: Path, *, sha256: str, threads: int, device: torch.device) -> Network:
    """Load the exported network, verify its digest, and warm it up.

    threads: number of CPU threads for the first passes, which compile the kernels.

    Raises:
        ValueError: the file's digest is not the one in the model card, or see read().
    """
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(
            f"{path.name} is not the file that the model card describes: its sha256 is {digest}, not {sha256}"
        )
    torch.set_num_threads(threads)  # else packing would start a thread for each core
    network = read(content, device)
    warm_up(network, threads)
    return network


def warm_up(network: Network, threads: int) -> None:
    """Run the network twice: TorchScript's profiling executor optimizes during the first two runs."""
    for _ in range(2):
        score(network, torch.zeros(1, 3, CROP, CROP), chunk=1, threads=threads)


def read(content: bytes, device: torch.device = CPU) -> Network:
    """Read a TorchScript file's content as a network on the device, with packed weights.

    Raises:
        ValueError: this build of torch lacks an operator of the network, or the file does not have the parts that this
            version's export writes.
    """
    if device.type == "cuda":
        # The GPU fuser would compile for every new batch size, in the middle of a request.
        torch._C._jit_set_texpr_fuser_enabled(False)
    with warnings.catch_warnings():
        # TorchScript is deprecated in torch 2.x; torch is pinned, so a warning per worker would be noise.
        warnings.simplefilter("ignore")
        module = _load(content, device).eval()
        if not all(hasattr(module, part) for part in PARTS):
            raise ValueError("the network file is from an older export; create it again with python -m export")
        features, head = (torch.jit.freeze(getattr(module, part)) for part in PARTS)
    _pack(features.graph)
    return Network(features, head, device)


def _load(content: bytes, device: torch.device) -> torch.jit.ScriptModule:
    try:
        module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(content), map_location=device)
        return module
    except RuntimeError as error:
        # The rest of torch's message is a page of source and similar names.
        if (match := re.search(r"Unknown builtin op: ([\w:]+)", str(error))) is None:
            raise
        missing = match[1]
    raise ValueError(
        f"this build of torch lacks {missing}, which the network file uses: it was exported on another platform; "
        "export it on this machine: scripts/serve --rebuild, or python -m export"
    )


def score(network: Network, batch: torch.Tensor, *, chunk: int, threads: int = 1) -> Scores:
    """Return the scores of N images.

    With several threads, images are divided among passes that run at once, because most operators are too small to
    divide well. Threads that are left over divide the operators of each pass.

    batch: float32 (N, 3, 224, 224), normalized. chunk: maximum images per pass. threads: for all passes together.
    """
    lanes = batch.tensor_split(min(threads, len(batch)))
    run = functools.partial(_run, network, chunk=chunk, threads=threads // len(lanes))
    if len(lanes) == 1:
        return run(batch)
    futures = [_pool().submit(run, lane) for lane in lanes]
    wait(futures)  # for all of them, even if one fails
    scores = [future.result() for future in futures]
    logits = torch.cat([part.logits for part in scores])
    return Scores(logits, [image for part in scores for image in part.activations])


def _run(network: Network, images: torch.Tensor, chunk: int, threads: int) -> Scores:
    """Run passes one after the other. threads: for each operator."""
    torch.set_num_threads(threads)  # of the calling thread
    try:
        with torch.inference_mode(), _denormals_flushed():
            activations = [network.forward_features(part) for part in images.split(pass_sizes(len(images), chunk))]
            logits = torch.cat([network.forward_head(part) for part in activations])
    finally:
        torch.set_num_threads(1)
    return Scores(logits, [image for part in activations for image in part])


@functools.cache
def _pool() -> ThreadPoolExecutor:
    # A thread that asks torch for the first time takes over the number that another thread has set last.
    return ThreadPoolExecutor(thread_name_prefix="pass", initializer=torch.get_num_threads)


def pass_sizes(count: int, chunk: int) -> list[int]:
    """Divide `count` images into passes of at most `chunk`, whose sizes are powers of two, in descending order.

    oneDNN keeps its compiled operators for every size that occurs, up to 60 MB for each, so there must be few sizes.
    """
    sizes: list[int] = []
    while count:
        sizes.append(1 << min(count, chunk).bit_length() - 1)
        count -= sizes[-1]
    return sizes


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Treat denormal numbers as zero within the block.

    A processor takes a hundred times as long for them, and a preprocessed tensor could consist of them. The mode
    affects all arithmetic of a thread, so it is limited to the block; the network's threads start here and keep it.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _pack(graph: Any) -> None:
    """Run the packing calls of a frozen graph and replace them by their results.

    torch's constant propagation skips them, because packed tensors have no storage that could be saved.
    """
    for node in list(graph.nodes()):
        if node.kind() not in _PACKING:
            continue
        namespace, name = node.kind().split("::")
        with torch.no_grad():
            packed = getattr(getattr(torch.ops, namespace), name)(*(_constant(value) for value in node.inputs()))
        graph.setInsertPoint(node)
        constant = graph.create("prim::Constant")
        constant.t_("value", packed)
        constant.output().setType(torch._C.TensorType.get())
        graph.insertNode(constant)
        node.output().replaceAllUsesWith(constant.output())
    torch._C._jit_pass_dce(graph)


def _constant(value: Any) -> Any:
    node = value.node()
    return [_constant(item) for item in node.inputs()] if node.kind() == "prim::ListConstruct" else value.toIValue()
