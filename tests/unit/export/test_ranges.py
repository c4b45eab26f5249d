"""Ranges: which values bytes stand for, and which no reader tells apart."""

import pytest
import torch
from torch import Tensor, nn

from export.ranges import Interval, Range

EVERYTHING = Interval(torch.full((3,), -torch.inf), torch.full((3,), torch.inf))
VALUES = torch.stack([torch.linspace(low, 1, 50) for low in (-1, 0, 0.5)], 1).double()


def ends(chosen: Range) -> tuple[list[float], list[float]]:
    return chosen.low.tolist(), (chosen.low + 255 * chosen.step).tolist()


def test_a_range_holds_the_values_of_its_channel() -> None:
    low, high = ends(Range.of(VALUES, EVERYTHING, margin=1))
    assert low == pytest.approx([-1, 0, 0.5])
    assert high == pytest.approx([1, 1, 1])


def test_a_margin_makes_it_wider_on_both_sides() -> None:
    low, high = ends(Range.of(VALUES, EVERYTHING, margin=2))
    assert low == pytest.approx([-2, -0.5, 0.25])
    assert high == pytest.approx([2, 1.5, 1.25])


def test_a_range_from_zero_grows_upwards_only() -> None:
    low, high = ends(Range.of(VALUES.clamp(min=0), EVERYTHING, margin=2, from_zero=True))
    assert low == [0, 0, 0]
    assert high == pytest.approx([2, 2, 2])


def test_a_range_ends_where_values_make_no_difference() -> None:
    needed = Interval(torch.tensor([-0.5, -3, 0]), torch.tensor([torch.inf, 0.5, 0.75]))
    low, high = ends(Range.of(VALUES, needed, margin=2))
    assert low == pytest.approx([-0.5, -0.5, 0.25])
    assert high == pytest.approx([2, 0.5, 0.75])


def test_a_channel_that_never_changes_has_a_range_too() -> None:
    chosen = Range.of(torch.full((9, 3), 4.0), EVERYTHING, margin=2)
    torch.testing.assert_close(chosen.values(torch.zeros(1, 3)), torch.full((1, 3), 4.0, dtype=torch.float64))
    assert (chosen.step > 0).all()


def norm(*scales_and_biases: tuple[float, float]) -> nn.Module:
    made = nn.BatchNorm2d(len(scales_and_biases), eps=0).eval()
    with torch.no_grad():
        made.weight.copy_(torch.tensor([scale for scale, _ in scales_and_biases]))
        made.bias.copy_(torch.tensor([bias for _, bias in scales_and_biases]))
    return made


def test_readers_distinguish_what_any_of_their_relus_passes() -> None:
    """Rising, falling, both, read by one of two, and by none."""
    norms = [
        norm((2, 2), (-1, 3), (1, 0), (0, 1), (0, 0)),
        norm((1, -3), (-1, 5), (-1, 0), (1, -4), (0, -1)),
    ]
    needed = Interval.read_by(norms, slice(0, 5))
    assert needed.low.tolist() == [-1, -torch.inf, -torch.inf, 4, 0]
    assert needed.high.tolist() == [torch.inf, 5, torch.inf, torch.inf, 0]

    def read(values: Tensor) -> Tensor:
        return torch.stack([each(values.view(-1, 5, 1, 1)).relu() for each in norms])

    with torch.no_grad():
        values = torch.randn(100, 5) * 6
        torch.testing.assert_close(read(needed.clamp(values)), read(values))
