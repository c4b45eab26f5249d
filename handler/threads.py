"""Threads: choose how many threads of this worker run the network on the images of a request or a batch.

A worker with one thread leaves all other cores idle while a single client sends. Two workers with two threads each on
two cores would wait for each other instead: a network's operators end when their slowest thread does. So a worker takes
its share of the cores: their number divided by the number of workers that are busy, itself included, as their records
say (worker_control.py). Under load a worker is idle for a moment between two requests, so the highest number counts
that it has seen lately.

Other programs use cores, too, and the operators of a single image divide less well than several images do. When several
threads turn out to be no faster than one on average, the worker rests: it uses one thread for some turns before it
tries again. It also uses one now and then, to learn how long that takes at present. It learns this for single images
and for several separately.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# The last two blocks' feature maps have 196 and 49 positions: more threads would mostly wait for each other.
_MAX_THREADS = 8
_LATELY = 16  # looks at the other workers' records, two in a turn
_SHORT_REST, _LONG_REST = 8, 64  # turns; a rest doubles if the turn after the last one was no better
_WORTHWHILE = 0.95  # maximum share of one thread's time that several may take
_WEIGHT = 0.2  # of the latest turn in an average time


def share(cores: int, busy: int) -> int:
    """Return a worker's number of threads. cores: for all workers together. busy: the number of busy ones.

    It is a power of two, because oneDNN compiles kernels for every number that occurs, 20 to 40 MB of them.
    """
    most = min(cores // max(1, busy), _MAX_THREADS)
    return 1 << (max(1, most).bit_length() - 1)


class Threads:
    """The number of threads for each turn of the network, and what was learned from the turns so far.

    cores: cores for all workers together. count_busy: returns the number of workers that are busy, this one included.
    """

    def __init__(self, cores: int, count_busy: Callable[[], int]) -> None:
        self._cores = cores
        self._count_busy = count_busy
        self._seen = deque([1], maxlen=_LATELY)  # numbers of busy workers
        self._alone, self._several = _Experience(), _Experience()

    @contextmanager
    def for_images(self, count: int) -> Iterator[int]:
        """Yield the number of threads for the block, which scores `count` images, and learn from the time it takes."""
        threads = self.choose(count, self._count_busy())
        begun = time.perf_counter()
        yield threads
        self.learn(threads, count, (time.perf_counter() - begun) / count, self._count_busy())

    def choose(self, images: int, busy: int) -> int:
        """Return the number of threads. busy: the number of busy workers at the beginning."""
        self._seen.append(busy)
        return share(self._cores, max(self._seen)) if self._experience(images).tries_several() else 1

    def learn(self, threads: int, images: int, seconds: float, busy: int) -> None:
        """Take note of a turn. seconds: for each image. busy: the number of busy workers at its end."""
        self._seen.append(busy)
        self._experience(images).learn(threads, images, seconds)

    def _experience(self, images: int) -> "_Experience":
        return self._several if images > 1 else self._alone


@dataclass
class _Experience:
    """Whether several threads have been worth it."""

    single: float | None = None
    """Average seconds an image with one thread."""
    several: float | None = None
    """The same with several threads, since the last rest."""
    age: int = 0
    """Turns since the last one with one thread."""
    prepared: set[tuple[int, int]] = field(default_factory=set)
    """Threads and images for which oneDNN has kernels."""
    rest: int = 0
    """Remaining turns with one thread."""
    last_rest: int = _SHORT_REST // 2

    def tries_several(self) -> bool:
        """Begin a turn; return whether to use several threads."""
        self.age += 1
        if self.single is None or self.age > _LONG_REST:
            return False
        if self.rest:
            self.rest -= 1
            return False
        return True

    def learn(self, threads: int, images: int, seconds: float) -> None:
        """Take note of a turn. seconds: for each image."""
        if threads == 1:
            self.age = 0
        if (threads, images) not in self.prepared:  # oneDNN compiled kernels, which takes longer than the turn
            self.prepared.add((threads, images))
        elif threads == 1:
            self.single = _average(self.single, seconds)
        else:
            self._compare(_average(self.several, seconds))

    def _compare(self, several: float) -> None:
        """Rest if several threads are no faster. On average, since any turn may be disturbed for a moment."""
        if self.single is not None and several > _WORTHWHILE * self.single:
            self.last_rest = min(2 * self.last_rest, _LONG_REST)
            self.rest, self.several = self.last_rest, None
        else:
            self.last_rest, self.several = _SHORT_REST // 2, several


def _average(before: float | None, seconds: float) -> float:
    return seconds if before is None else before + _WEIGHT * (seconds - before)
