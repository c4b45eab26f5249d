"""Waiting until a condition holds, and for no longer than allowed."""

import time

from densenet.polling import wait_until


def test_the_first_true_value_is_returned_at_once() -> None:
    values = iter(["", None, "third", "fourth"])
    assert wait_until(lambda: next(values), 30, 0.001) == "third"


def test_after_the_time_the_last_value_is_returned() -> None:
    begun = time.monotonic()
    assert wait_until(lambda: 0, 0.05, 0.01) == 0
    assert 0.05 <= time.monotonic() - begun < 5


def test_without_time_the_condition_is_tried_once() -> None:
    values = iter([1])
    assert wait_until(lambda: next(values), 0) == 1
