"""Layer errors: signal to noise, the range, and what is beyond it."""

import math

import pytest
import torch

from export.layer_errors import measure, show
from export.ranges import Interval, Range


def test_the_noise_of_rounding_is_a_twelfth_of_a_squared_step() -> None:
    outputs = torch.rand(100_000, 1, dtype=torch.float64) * 10
    chosen = Range(torch.zeros(1, dtype=torch.float64), torch.tensor([10 / 255], dtype=torch.float64))
    error = measure("layer", (1, 2), outputs, Interval.positive(1), chosen, (outputs / chosen.step).round().byte())
    assert error.signal_to_noise == pytest.approx(20 * math.log10(255), abs=0.1)
    assert (error.lowest, error.highest, error.clipped) == (0, pytest.approx(10), 0)


def test_what_is_beyond_the_range_is_counted_unless_nobody_distinguishes_it() -> None:
    outputs = torch.tensor([[-5.0, -5.0], [1.0, 1.0], [2.0, 2.0], [9.0, 9.0]], dtype=torch.float64)
    needed = Interval(torch.tensor([0.0, -9.0]), torch.tensor([torch.inf, torch.inf]))
    chosen = Range(torch.zeros(2, dtype=torch.float64), torch.full((2,), 0.01, dtype=torch.float64))
    bytes_ = (outputs / 0.01).clamp(0, 255).round().byte()
    assert measure("layer", (2, 2), outputs, needed, chosen, bytes_).clipped == 3 / 8


def test_the_table_has_a_line_for_each_layer(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = torch.linspace(0, 2.55, 256, dtype=torch.float64)[:, None]
    chosen = Range(torch.zeros(1, dtype=torch.float64), torch.full((1,), 0.01, dtype=torch.float64))
    bytes_ = torch.arange(256)[:, None].byte()
    show([measure("block.conv1", (1, 4, 3, 3), outputs + 0.001, Interval.positive(1), chosen, bytes_)])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["layer", "weights", "bits", "signal/noise", "range", "clipped"]
    assert line.split() == ["block.conv1", "1×4×3×3", "8", "57.4", "dB", "0.00", "to", "2.55", "0.000%"]
