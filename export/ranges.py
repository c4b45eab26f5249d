"""Ranges: which values the 256 bytes of each channel stand for."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.fused import scale_and_shift

MAX_BYTE = 255
_MIN_STEP = 1e-9  # for constant channels


@dataclass(frozen=True)
class Interval:
    """The values of some channels that make a difference to their readers: low to high, both float64 (C,)."""

    low: Tensor
    high: Tensor

    @classmethod
    def positive(cls, channels: int) -> "Interval":
        """Return what a ReLU distinguishes."""
        low = torch.zeros(channels, dtype=torch.float64)
        return cls(low, torch.full_like(low, torch.inf))

    @classmethod
    def read_by(cls, norms: Iterable[nn.Module], channels: slice) -> "Interval":
        """Return what the ReLUs after some batch-norms distinguish of channels that all of them read.

        A ReLU is a bound on its channel, a lower one or, for a negative scale, an upper one.
        """
        lows, highs = [], []
        for norm in norms:
            scale, shift = (part[channels] for part in scale_and_shift(norm))
            bound = -shift / scale
            # A scale of zero distinguishes nothing.
            lows.append(torch.where(scale > 0, bound, torch.where(scale < 0, -torch.inf, torch.inf)))
            highs.append(torch.where(scale < 0, bound, torch.where(scale > 0, torch.inf, -torch.inf)))
        low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
        unread = low > high
        return cls(low.masked_fill(unread, 0), high.masked_fill(unread, 0))

    def clamp(self, values: Tensor) -> Tensor:
        """Replace values (…, C) beyond an end by that end."""
        return values.clamp(self.low.to(values.dtype), self.high.to(values.dtype))


@dataclass(frozen=True)
class Range:
    """The values of some channels' bytes: low + step · byte, both float64 (C,)."""

    low: Tensor
    step: Tensor

    @classmethod
    def of(cls, values: Tensor, needed: Interval, *, margin: float, from_zero: bool = False) -> "Range":
        """Return the range of values (R, C), as far as they make a difference.

        margin: how many times as wide as these values it is. from_zero: whether it starts at zero, with which
        convolutions pad; negative values are then needless.
        """
        low, high = (end(values, 0).double() for end in (torch.amin, torch.amax))
        if from_zero:
            low, high = torch.zeros_like(high), needed.clamp(high * margin)
        else:
            more = (margin - 1) / 2 * (high - low)
            low, high = needed.clamp(low - more), needed.clamp(high + more)
        return cls(low, ((high - low) / MAX_BYTE).clamp_min(_MIN_STEP))

    def joined(self, other: "Range") -> "Range":
        """Return the range of these channels followed by the others."""
        return Range(torch.cat([self.low, other.low]), torch.cat([self.step, other.step]))

    def values(self, bytes_: Tensor) -> Tensor:
        """Return the values that bytes (R, C) stand for, float64."""
        return self.low + self.step * bytes_.double()

    def means(self, values: Tensor) -> Tensor:
        """Return the means of values (R, C) in bytes."""
        return (values.mean(0, dtype=torch.float64) - self.low) / self.step
