"""Embed: the numbers of an image that its classes are computed from, for search, duplicates and clustering."""

import base64
import struct
from collections.abc import Sequence

import torch

from handler.options import Encoding, Norm

WIDTH = 1024
"""The numbers of an embedding: the network's last feature maps, each averaged over its positions."""


def embed(activations: torch.Tensor, norm: Norm) -> tuple[float, ...]:
    """Return the embedding of an image, float32 numbers.

    activations: float32 (49, 1024), at the positions of the crop; their mean is what the classifier gets.
    """
    # In float64, the squares of values that a client chose do not overflow.
    values = activations.cpu().double().mean(0)
    if norm is Norm.L2:
        values /= values.norm().clamp_min(torch.finfo(torch.float64).tiny)  # zeros stay zeros
    return tuple(values.float().tolist())


def encode(values: Sequence[float], encoding: Encoding) -> str | Sequence[float]:
    """Return an embedding as JSON has it: numbers, or base64 of little-endian float32."""
    if encoding is Encoding.FLOAT:
        return shorten(values)
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")


def shorten(values: Sequence[float]) -> list[float]:
    """Return float32 numbers with the nine digits that determine them, which halves their JSON."""
    return [float(f"{value:.9g}") for value in values]
