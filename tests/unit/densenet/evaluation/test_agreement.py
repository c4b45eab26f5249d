"""How far two sets of answers agree, on cases worked out by hand."""

import pytest

from densenet.evaluation.agreement import compare
from densenet.evaluation.answers import Outcome

FAILED = Outcome(code="broken_image", message="cut short")


def said(**probabilities: float) -> Outcome:
    return Outcome(tuple(probabilities), tuple(probabilities.values()), True)


def test_shares_and_differences_are_of_the_images_that_both_answered() -> None:
    ours = {"same": said(a=0.6, b=0.3), "order": said(a=0.6, b=0.2, c=0.1), "top": said(a=0.5, b=0.4), "gone": FAILED}
    theirs = {"same": said(a=0.61, b=0.3), "order": said(a=0.6, c=0.3, d=0.1), "top": said(b=0.45, a=0.44)}
    found = compare(list(ours), ours, theirs | {"gone": said(a=1.0)})
    assert (found.compared, found.one_sided) == (3, ("gone",))
    assert (found.same_top1, found.same_order) == pytest.approx((2 / 3, 1 / 3))
    # b is not among the others' best for "order", and so says nothing about probabilities.
    gaps = [0.01, 0.0, 0.0, 0.2, 0.06, 0.05]
    assert (found.largest, found.mean) == pytest.approx((0.2, sum(gaps) / 6))
    assert [one.file for one in found.differences] == ["top", "order", "same"]
    assert (found.differences[0].ours, found.differences[0].theirs) == ("a", "b")


def test_nothing_in_common_is_no_division_by_zero() -> None:
    found = compare(["x"], {"x": FAILED}, {"x": FAILED})
    assert (found.compared, found.same_top1, found.largest, found.one_sided) == (0, 0, 0, ())
    apart = compare(["x"], {"x": said(a=0.9)}, {"x": said(b=0.9)})
    assert (apart.compared, apart.same_top1, apart.largest) == (1, 0, 0)
