"""Threads: choose how many threads of this worker compute a pass through the network.

A worker with one thread leaves all other cores idle while a single client sends. Two workers with two threads each on
two cores would wait for each other instead: a network's operators end when their slowest thread does. So a worker takes
its share of the cores: their number divided by the number of workers that are busy, itself included, as their records
say (worker_control.py). Under load a worker is idle for a moment between two requests, so the highest number counts
that it has seen lately.

Other programs use cores, too. When several threads turn out to be no faster than one, the worker rests: it uses one
thread for some passes before it tries again. It also uses one now and then, to learn how long that takes at present.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# The last two blocks' feature maps have 196 and 49 positions: more threads would mostly wait for each other.
_MAX_THREADS = 8
_LATELY = 16  # looks at the other workers' records, two in a pass
_SHORT_REST, _LONG_REST = 8, 64  # passes; a rest doubles if the pass after the last one was no better
_WORTHWHILE = 0.95  # a pass with several threads must take at most this share of one with a single thread
_WEIGHT = 0.2  # of the latest pass in the average time of passes with one thread


def share(cores: int, busy: int) -> int:
    """Return a worker's number of threads. cores: for all workers together. busy: the number of busy ones.

    It is a power of two, because oneDNN compiles kernels for every number that occurs, 20 to 40 MB of them.
    """
    most = min(cores // max(1, busy), _MAX_THREADS)
    return 1 << (max(1, most).bit_length() - 1)


class Threads:
    """The number of threads for each pass, and what was learned from the passes so far.

    cores: cores for all workers together. count_busy: returns the number of workers that are busy, this one included.
    """

    def __init__(self, cores: int, count_busy: Callable[[], int]) -> None:
        self._cores = cores
        self._count_busy = count_busy
        self._seen = deque([1], maxlen=_LATELY)  # numbers of busy workers
        self._single: float | None = None  # average seconds an image with one thread
        self._age = 0  # passes since the last one with one thread
        self._prepared: set[tuple[int, int]] = set()  # threads and images for which oneDNN has kernels
        self._rest = 0  # remaining passes with one thread
        self._last_rest = _SHORT_REST // 2

    @contextmanager
    def for_pass(self, images: int) -> Iterator[None]:
        """Set the number of threads for the block, which computes one pass; outside of it the number is one.

        images: how many the pass has.
        """
        threads = self.choose(self._count_busy())
        torch.set_num_threads(threads)
        begun = time.perf_counter()
        try:
            yield
        finally:
            torch.set_num_threads(1)
        self.learn(threads, images, (time.perf_counter() - begun) / max(1, images), self._count_busy())

    def choose(self, busy: int) -> int:
        """Return the number of threads for a pass. busy: the number of busy workers at its beginning."""
        self._seen.append(busy)
        self._age += 1
        if self._single is None or self._age > _LONG_REST:
            return 1
        if self._rest:
            self._rest -= 1
            return 1
        return share(self._cores, max(self._seen))

    def learn(self, threads: int, images: int, seconds: float, busy: int) -> None:
        """Take note of a pass. seconds: for each image. busy: the number of busy workers at its end."""
        self._seen.append(busy)
        if threads == 1:
            self._age = 0
        if (threads, images) not in self._prepared:  # oneDNN compiled kernels, which takes longer than the pass
            self._prepared.add((threads, images))
        elif threads == 1:
            self._single = seconds if self._single is None else self._single + _WEIGHT * (seconds - self._single)
        elif self._single is not None and seconds > _WORTHWHILE * self._single:
            self._last_rest = min(2 * self._last_rest, _LONG_REST)
            self._rest = self._last_rest
        else:
            self._last_rest = _SHORT_REST // 2
