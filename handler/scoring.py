"""Score: from a batch of pictures to logits, by the TorchScript network."""

import hashlib
import warnings
from pathlib import Path

import torch

from handler.transform import CROP


def load(path: Path, *, sha256: str, threads: int) -> torch.jit.ScriptModule:
    """Loads the network that export wrote, after checking that it is that very file, and warms it up.

    threads: CPU threads of this process's network.
    Raises ValueError when the file's digest is not the one in the model card.
    """
    content_digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if content_digest != sha256:
        raise ValueError(f"{path.name} is not the file that the model card describes: its sha256 is {content_digest}")
    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        # TorchScript is deprecated as of torch 2.x; versions are pinned, and a warning per worker helps nobody.
        warnings.simplefilter("ignore")
        network: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu").eval()
    for _ in range(2):  # the profiling executor settles on its second run
        score(network, torch.zeros(1, 3, CROP, CROP), chunk=1)
    return network


def score(network: torch.jit.ScriptModule, batch: torch.Tensor, *, chunk: int) -> torch.Tensor:
    """float32 (N, 3, 224, 224), normalized → float32 logits (N, classes); at most `chunk` images go in one pass."""
    with torch.inference_mode():
        return torch.cat([network(part) for part in batch.split(chunk)])
