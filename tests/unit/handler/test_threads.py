"""How many threads a worker takes for a pass."""

import itertools
from collections.abc import Callable

import pytest

from handler.threads import Threads, share


def threads(cores: int, busy: Callable[[], int] = lambda: 1) -> Threads:
    """One that knows how long a pass with one thread takes, and has kernels for two."""
    chosen = Threads(cores, busy)
    for count in (1, 2):
        for seconds in (0.12, 0.04 / count):
            chosen.learn(count, 1, seconds, busy=1)
    return chosen


@pytest.mark.parametrize(
    ("cores", "taken"),
    [
        (1, [1, 1, 1]),
        (2, [2, 1, 1, 1]),
        (4, [4, 2, 1, 1, 1]),
        (6, [4, 2, 2, 1, 1, 1]),
        (16, [8, 8, 4, 4, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_a_worker_takes_its_share_of_the_cores(cores: int, taken: list[int]) -> None:
    assert [share(cores, busy) for busy in range(1, len(taken) + 1)] == taken
    assert all(busy * count <= max(cores, busy) for busy, count in enumerate(taken, 1))


def test_the_number_follows_the_busy_workers() -> None:
    busy = [1]
    chosen = threads(2, lambda: busy[0])
    with chosen.for_images(1) as count:
        assert count == 2
    busy[0] = 2
    with chosen.for_images(1) as count:
        assert count == 1


def test_single_images_and_several_are_learned_separately() -> None:
    chosen = threads(2)
    for count in (1, 2):
        for seconds in (0.12, 0.04 / count):
            chosen.learn(count, 4, seconds, busy=1)
    for _ in range(10):
        chosen.learn(2, 1, 0.05, busy=1)  # no faster than one thread
    assert [chosen.choose(images, 1) for images in (1, 4, 1, 8)] == [1, 2, 1, 2]


def test_the_first_passes_are_not_judged() -> None:
    chosen = Threads(4, lambda: 1)
    taken = []
    # oneDNN compiles kernels in the first pass with a number of threads and images.
    for seconds in (0.12, 0.04, 0.12, 0.05):
        taken.append(chosen.choose(1, 1))
        chosen.learn(taken[-1], 1, seconds, busy=1)
    assert [*taken, chosen.choose(1, 1)] == [1, 1, 4, 4, 1]


def test_the_first_pass_with_another_number_of_images_is_not_judged() -> None:
    chosen = threads(2)
    for count, images in ((1, 4), (1, 4), (2, 4), (2, 8)):
        chosen.learn(count, images, 0.12 if (count, images) == (2, 8) else 0.04 / count, busy=1)
    assert chosen.choose(8, 1) == 2


def test_one_thread_is_measured_again_from_time_to_time() -> None:
    chosen = threads(2)
    taken = []
    for _ in range(200):
        taken.append(chosen.choose(1, 1))
        chosen.learn(taken[-1], 1, 0.04 / taken[-1], busy=1)
    assert 2 <= taken.count(1) <= 4


def choices(chosen: Threads, passes: int) -> list[int]:
    """Passes of one image for a single client that take as long with several threads as with one."""
    taken = []
    for _ in range(passes):
        taken.append(chosen.choose(1, 1))
        chosen.learn(taken[-1], 1, 0.04, busy=1)
    return taken


def test_it_rests_longer_and_longer_while_several_threads_are_no_faster() -> None:
    chosen = threads(2)
    taken = choices(chosen, 2000)
    tries = [i for i, count in enumerate(taken) if count > 1]
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    first = gaps.index(9)  # until then several threads are faster on average, since they were before
    assert gaps[:first] == [1] * first
    assert gaps[first : first + 6] == [9, 17, 33, 65, 65, 65]
    assert len(tries) - first < 0.02 * len(taken)


def test_a_pass_that_was_disturbed_is_no_reason_to_rest() -> None:
    chosen = threads(2)
    chosen.learn(2, 1, 0.07, busy=1)
    assert chosen.choose(1, 1) == 2


def test_one_that_took_very_long_is() -> None:
    chosen = threads(2)
    chosen.learn(2, 1, 1.5, busy=1)  # threads that wait for each other while another program has a core
    assert chosen.choose(1, 1) == 1


def test_a_faster_pass_ends_the_rests() -> None:
    chosen = threads(2)
    choices(chosen, 200)
    while chosen.choose(1, 1) == 1:
        chosen.learn(1, 1, 0.04, busy=1)
    chosen.learn(2, 1, 0.025, busy=1)
    assert [chosen.choose(1, 1) for _ in range(4)] == [2] * 4


def test_the_most_that_were_busy_lately_count() -> None:
    chosen = threads(2)

    def passes(busy: int, count: int) -> list[int]:
        taken = []
        for _ in range(count):
            taken.append(chosen.choose(1, busy))
            chosen.learn(taken[-1], 1, 0.04 / taken[-1], busy=busy)
        return taken

    assert passes(busy=1, count=3) == [2, 2, 2]
    assert passes(busy=2, count=1) == [1]
    # Under load another worker is idle only for the moment between two requests.
    assert passes(busy=1, count=12) == [1] * 8 + [2] * 4


def test_its_measure_of_one_thread_follows_the_machine() -> None:
    chosen = threads(2)
    for _ in range(50):
        chosen.learn(1, 1, 0.08, busy=1)  # a slow spell
    chosen.learn(2, 1, 0.06, busy=1)
    assert chosen.choose(1, 1) == 2


def test_an_error_in_a_pass_is_not_a_measurement() -> None:
    chosen = threads(2)
    with pytest.raises(ValueError, match="of the pass"), chosen.for_images(1):
        raise ValueError("of the pass")
    assert chosen.choose(1, 1) == 2
