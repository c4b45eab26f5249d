"""Score: from a batch of pictures to logits, by the TorchScript network."""

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handler import PARTS
from handler.cropping import CROP

CPU = torch.device("cpu")

# What lays weights out as the processor at hand likes them best. The result cannot be kept in a file, so the file
# has the plain weights, and these calls.
_PACKING = (
    "mkldnn::_reorder_linear_weight",
    "mkldnn::_reorder_convolution_weight",
    "onednn::qlinear_prepack",
    "onednn::qconv_prepack",
)


@dataclass(frozen=True)
class Network:
    """The network that export wrote, in its two parts, each frozen."""

    trunk: torch.jit.ScriptModule
    """float32 (N, 3, 224, 224), normalized → float32 activations (N, 49, 1024) of the 7×7 places of a picture."""
    head: torch.jit.ScriptModule
    """Activations (N, P, 1024) of any P places → logits (N, classes), float32."""
    device: torch.device
    """Where both are."""

    def see(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures → activations, which stay where the network is."""
        activations: torch.Tensor = self.trunk(images.to(self.device))
        return activations

    def judge(self, activations: torch.Tensor) -> torch.Tensor:
        """Activations → logits, on the CPU."""
        logits: torch.Tensor = self.head(activations.to(self.device))
        return logits.cpu()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures → logits."""
        return self.judge(self.see(images))


@dataclass(frozen=True)
class Scores:
    """What the network makes of N pictures."""

    logits: torch.Tensor
    """float32 (N, classes)."""
    activations: Sequence[torch.Tensor]
    """float32 (49, 1024) of each picture, not copied from what the trunk gave."""


def is_lost(network: Network) -> bool:
    """Whether the network's GPU is in error for good: after some errors every call of the process fails."""
    if network.device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(network.device)
    except RuntimeError:
        return True
    return False


def load(path: Path, *, sha256: str, threads: int, device: torch.device) -> Network:
    """Loads the network that export wrote, after checking that it is that very file, and warms it up.

    threads: CPU threads of this process's network.
    Raises ValueError when the file's digest is not the one in the model card.
    """
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path.name} is not the file that the model card describes: its sha256 is {digest}")
    torch.set_num_threads(threads)
    network = read(content, device)
    for _ in range(2):  # the profiling executor settles on its second run
        score(network, torch.zeros(1, 3, CROP, CROP), chunk=1)
    return network


def read(content: bytes, device: torch.device = CPU) -> Network:
    """A TorchScript file's content as a network on the device, its weights packed.

    Raises ValueError for a file of another export than ours, or of an older one.
    """
    if device.type == "cuda":
        # The fuser for GPUs compiles anew for every batch size that it meets, in the middle of a request.
        torch._C._jit_set_texpr_fuser_enabled(False)
    with warnings.catch_warnings():
        # TorchScript is deprecated as of torch 2.x; versions are pinned, and a warning per worker helps nobody.
        warnings.simplefilter("ignore")
        whole: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(content), map_location=device).eval()
        if not all(hasattr(whole, part) for part in PARTS):
            raise ValueError("this network was made by an older export; make it anew with python -m export")
        trunk, head = (torch.jit.freeze(getattr(whole, part)) for part in PARTS)
    _pack(trunk.graph)
    return Network(trunk, head, device)


def score(network: Network, batch: torch.Tensor, *, chunk: int) -> Scores:
    """float32 (N, 3, 224, 224), normalized → the scores of N pictures; at most `chunk` of them go in one pass."""
    with torch.inference_mode(), _denormals_flushed():
        seen = [network.see(part) for part in batch.split(chunk)]
        logits = torch.cat([network.judge(part) for part in seen])
    return Scores(logits, [picture for part in seen for picture in part])


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Take numbers next to zero for zero: a processor needs a hundred times as long for them, and a preprocessed image
    may be made of nothing else. Only here, since it holds for a thread's whole arithmetic; the network's other threads
    are started here, and keep it."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _pack(graph: Any) -> None:
    """Runs the packing calls of a frozen graph and puts their results in their places.

    torch's own constant propagation leaves them alone, since packed tensors have no storage that it could save.
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
