"""Layer errors: how well each layer of a quantised network gives what the fp32 network's layer gives, as a table."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor

from export.console import out
from export.ranges import MAX_BYTE, Interval, Range


@dataclass(frozen=True)
class LayerError:
    """The error of a layer's outputs on the calibration images, with the layers before it quantised, too."""

    name: str
    """The layer's name in torchvision's network."""
    shape: tuple[int, ...]
    """Shape of its weights."""
    signal_to_noise: float
    """Variance of the outputs divided by their mean squared error, in decibels."""
    lowest: float
    """The lowest value that a byte of any channel stands for."""
    highest: float
    """The highest value that a byte of any channel stands for."""
    clipped: float
    """Share of the outputs beyond their channel's range, 0..1."""


def measure(
    name: str, shape: tuple[int, ...], outputs: Tensor, needed: Interval, chosen: Range, bytes_: Tensor
) -> LayerError:
    """Measure the error of bytes (P, C) for outputs (P, C) of the fp32 network, as far as these make a difference."""
    expected = needed.clamp(outputs)
    high = chosen.low + chosen.step * MAX_BYTE
    noise = (chosen.values(bytes_) - expected).square().mean()
    signal = expected.var(0, correction=0).mean()
    # Rounding keeps a value at the very end of its range from counting as beyond it.
    slack = chosen.step / 2
    clipped = ((expected < chosen.low - slack) | (expected > high + slack)).double().mean()
    decibels = 10 * torch.log10(signal / noise)
    return LayerError(name, shape, float(decibels), float(chosen.low.min()), float(high.max()), float(clipped))


def show(errors: Iterable[LayerError]) -> None:
    """Print a table of the errors in the layers' order."""
    table = Table(box=None, pad_edge=False)
    table.add_column("layer")
    for head in ("weights", "bits", "signal/noise", "range", "clipped"):
        table.add_column(head, justify="right")
    for error in errors:
        table.add_row(
            error.name,
            "×".join(map(str, error.shape)),
            "8",
            f"{error.signal_to_noise:.1f} dB",
            f"{error.lowest:.2f} to {error.highest:.2f}",
            f"{error.clipped:.3%}",
        )
    out.print(table)
