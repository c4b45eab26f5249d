"""Agreement: the exported network must say what the eager one says, and every way of not doing so is noticed."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export import PHOTOS
from export.agreement import BATCH, BATCHES, check, compare
from export.console import CliError
from handler.scoring import read

LOGITS = [9.0, 7.0, 5.0, 3.0, 1.0, -1.0, -3.0, -5.0]


class Says(nn.Module):
    """A stand-in network with the same answer to every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


class SaysOnce(nn.Module):
    """One answer to all images but the last of a batch of four, and another to that."""

    def __init__(self, usual: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.usual, self.last = usual, last

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.usual(images).clone()
        if len(images) == 4:
            answers[3] = self.last(images[3:])[0]
        return answers


def changed(position: int, by: float) -> list[float]:
    return [logit + by * (i == position) for i, logit in enumerate(LOGITS)]


def test_a_faithful_export_passes(network: nn.Module, exported: Path) -> None:
    assert 0 <= check(network, read((exported / "model.pt").read_bytes())) <= 1e-4


def test_slightly_different_weights_do_not_pass(network: nn.Module) -> None:
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.get_parameter("features.conv0.weight").mul_(1.01)
    with pytest.raises(CliError, match=r"differs|order"):
        check(network, other)


def test_photographs_are_there_to_compare_on() -> None:
    assert len(list(PHOTOS.glob("*.jpg"))) == 4


def test_batches_are_counted_as_they_are_done() -> None:
    done: list[None] = []
    check(Says(*LOGITS), Says(*LOGITS), batch_done=lambda: done.append(None))
    assert len(done) == BATCHES
    compare(Says(*LOGITS), Says(*LOGITS), torch.zeros(BATCH + 1, 3, 8, 8), lambda: done.append(None))
    assert len(done) == BATCHES + 2


def test_the_largest_difference_is_told_in_standard_deviations() -> None:
    spread = 24**0.5  # variance of 9, 7, … -5 with n - 1: 2 · (49 + 25 + 9 + 1) / 7
    difference = check(Says(*LOGITS), Says(*changed(7, 4e-4)))
    assert difference == pytest.approx(4e-4 / spread, rel=2e-3)


def test_a_difference_just_past_the_tolerance_does_not_pass() -> None:
    with pytest.raises(CliError, match="differs"):
        check(Says(*LOGITS), Says(*changed(7, 5.5e-4)))


def test_one_image_of_a_batch_is_enough_to_fail() -> None:
    eager = Says(*LOGITS)
    check(eager, SaysOnce(eager, eager))
    with pytest.raises(CliError, match="differs"):
        check(eager, SaysOnce(eager, Says(*changed(4, 0.1))))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("both", [True, False])
def test_what_is_not_finite_does_not_pass(value: float, both: bool) -> None:
    broken = Says(*LOGITS[:-1], value)
    with pytest.raises(CliError):
        check(broken if both else Says(*LOGITS), broken)


def test_another_number_of_classes_is_told() -> None:
    with pytest.raises(CliError, match=r"\(1, 7\).*\(1, 8\)"):
        check(Says(*LOGITS), Says(*LOGITS[:-1]))


def test_two_of_the_best_five_in_another_order_do_not_pass() -> None:
    close = [9.0, 7.0, 5.0, 3.0, 3.0 - 1e-5, -1.0, -3.0]
    swapped = [9.0, 7.0, 5.0, 3.0 - 1e-5, 3.0, -1.0, -3.0]
    check(Says(*close), Says(*close))
    with pytest.raises(CliError, match="order"):
        check(Says(*close), Says(*swapped))


def test_another_order_behind_the_best_five_passes() -> None:
    close = [9.0, 7.0, 5.0, 3.0, 1.0, -1.0, -1.0 - 1e-5]
    swapped = [9.0, 7.0, 5.0, 3.0, 1.0, -1.0 - 1e-5, -1.0]
    assert 0 < check(Says(*close), Says(*swapped)) < 1e-4


def test_fewer_than_five_classes_are_compared_in_full() -> None:
    assert check(Says(1.0, 2.0, -1.0), Says(1.0, 2.0, -1.0)) == 0
    with pytest.raises(CliError, match="order"):
        check(Says(1.0, 1.0 - 1e-6, -1.0), Says(1.0 - 1e-6, 1.0, -1.0))


def test_resemblance_is_that_of_the_probabilities() -> None:
    images = torch.zeros(3, 3, 8, 8)
    same = compare(Says(*LOGITS), Says(*LOGITS), images)
    assert (same.images, same.same_top1, same.mean_distance, same.largest_distance) == (3, 1, 0, 0)
    other = compare(Says(0.0, 100.0), Says(100.0, 0.0), images)
    assert (other.same_top1, other.mean_distance, other.largest_distance) == (0, pytest.approx(1), pytest.approx(1))
    halves = compare(Says(0.0, 100.0), Says(0.0, 0.0), images)
    assert halves.largest_distance == pytest.approx(0.5)
