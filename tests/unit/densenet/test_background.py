"""A function that is called beside a block: until its end, and without losing an error."""

import threading
import time

import pytest

from densenet.background import repeating


def test_a_function_is_called_until_the_block_ends() -> None:
    calls: list[str] = []
    twice = threading.Event()

    def call() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 2:
            twice.set()

    with repeating(call, 0.001):
        assert twice.wait(30)
    count = len(calls)
    time.sleep(0.05)
    assert len(calls) == count
    assert threading.current_thread().name not in calls


def test_a_short_block_does_not_wait_for_a_pause() -> None:
    begun = time.monotonic()
    with repeating(lambda: None, 60):
        pass
    assert time.monotonic() - begun < 30


def fail() -> None:
    raise ValueError("cannot sample")


def test_an_error_is_raised_at_the_end_of_the_block() -> None:
    with pytest.raises(ValueError, match="cannot sample"), repeating(fail, 0.001):
        time.sleep(0.05)


def test_the_error_of_the_block_comes_first() -> None:
    def interrupt() -> None:
        time.sleep(0.05)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), repeating(fail, 0.001):
        interrupt()
