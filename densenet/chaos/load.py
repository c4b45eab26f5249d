"""Load: clients that ask without a pause until they are told to stop, and what became of every request."""

import random
import threading
import time
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate

from densenet.chaos import sender
from densenet.chaos.oracle import FAILED, Known, Outcome
from densenet.chaos.sender import Question
from densenet.chaos.workload import quiet_session

_AFTER_FAILURE = 0.25  # seconds that a client waits before it asks again


class Load:
    """Clients in threads. weights: how often each question is asked; all the same where there are none.

    headers may be changed while the clients run: a renewed token, for one.
    """

    def __init__(
        self,
        base: str,
        asked: Sequence[tuple[Question, Known]],
        weights: Sequence[int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.headers: Mapping[str, str] = headers or {}
        self.sent = 0
        self.outcomes: list[Outcome] = []
        self._base, self._asked = base, asked
        self._steps = list(accumulate(weights or [1] * len(asked)))
        self._over, self._lock = threading.Event(), threading.Lock()

    def client(self, seed: int) -> None:
        """One client, until the load is over."""
        chance = random.Random(seed)
        with quiet_session() as session:
            while not self._over.is_set():
                question, known = self._next(chance)
                outcome = sender.ask(session, self._base, question, known, self.headers)
                with self._lock:
                    self.outcomes.append(outcome)
                if outcome.verdict in FAILED:
                    self._over.wait(_AFTER_FAILURE)

    def _next(self, chance: random.Random) -> tuple[Question, Known]:
        """Every question once, so that a short load has all of them, and then by weight."""
        with self._lock:
            number, self.sent = self.sent, self.sent + 1
        if number < len(self._asked):
            return self._asked[number]
        return self._asked[bisect(self._steps, chance.random() * self._steps[-1])]

    def stop(self) -> None:
        """No further request; those under way are waited for by whoever started the clients."""
        self._over.set()


@contextmanager
def running(load: Load, clients: int) -> Iterator[Load]:
    """So many clients until the end of the block, which waits for their last answers."""
    threads = [threading.Thread(target=load.client, args=(seed,), daemon=True) for seed in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop()
        for thread in threads:
            thread.join(2 * sender.TIMEOUT)


def wait_for_answers(load: Load, count: int, seconds: float) -> bool:
    """Whether so many further requests ended within so many seconds."""
    target, deadline = len(load.outcomes) + count, time.monotonic() + seconds
    while time.monotonic() < deadline:
        if len(load.outcomes) >= target:
            return True
        time.sleep(0.05)
    return False
