"""Score: from a batch of pictures to logits, by the TorchScript network."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from handler.transform import CROP

# What lays weights out as the processor at hand likes them best. The result cannot be kept in a file, so the file
# has the plain weights, and these calls.
_PACKING = (
    "mkldnn::_reorder_linear_weight",
    "mkldnn::_reorder_convolution_weight",
    "onednn::qlinear_prepack",
    "onednn::qconv_prepack",
)


def load(path: Path, *, sha256: str, threads: int) -> torch.jit.ScriptModule:
    """Loads the network that export wrote, after checking that it is that very file, and warms it up.

    threads: CPU threads of this process's network.
    Raises ValueError when the file's digest is not the one in the model card.
    """
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path.name} is not the file that the model card describes: its sha256 is {digest}")
    torch.set_num_threads(threads)
    network = read(content)
    for _ in range(2):  # the profiling executor settles on its second run
        score(network, torch.zeros(1, 3, CROP, CROP), chunk=1)
    return network


def read(content: bytes) -> torch.jit.ScriptModule:
    """A TorchScript file's content as a frozen network on the CPU, its weights packed."""
    with warnings.catch_warnings():
        # TorchScript is deprecated as of torch 2.x; versions are pinned, and a warning per worker helps nobody.
        warnings.simplefilter("ignore")
        network: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
        network = torch.jit.freeze(network)
    _pack(network.graph)
    return network


def score(network: torch.jit.ScriptModule, batch: torch.Tensor, *, chunk: int) -> torch.Tensor:
    """float32 (N, 3, 224, 224), normalized → float32 logits (N, classes); at most `chunk` images go in one pass."""
    with torch.inference_mode():
        return torch.cat([network(part) for part in batch.split(chunk)])


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
