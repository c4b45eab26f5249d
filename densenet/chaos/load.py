"""Load: clients that send requests without a pause until stopped, and the outcome of every request."""

import random
import threading
import time
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate

from densenet.chaos import sender
from densenet.chaos.oracle import FAILED, Expected, Outcome
from densenet.chaos.sender import ClientRequest
from densenet.chaos.workload import quiet_session

_AFTER_FAILURE = 0.25  # seconds that a client waits after a failure


class Load:
    """Clients in threads. weights: relative frequency of each request; uniform by default.

    headers may change while the clients run, for example after a token was renewed.
    """

    def __init__(
        self,
        base: str,
        requests: Sequence[tuple[ClientRequest, Expected]],
        weights: Sequence[int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.headers: Mapping[str, str] = headers or {}
        self.sent = 0
        self.outcomes: list[Outcome] = []
        self._base, self._requests = base, requests
        self._steps = list(accumulate(weights or [1] * len(requests)))
        self._over, self._lock = threading.Event(), threading.Lock()

    def client(self, seed: int) -> None:
        """Run one client until the load is stopped."""
        rng = random.Random(seed)
        with quiet_session() as session:
            while not self._over.is_set():
                request, expected = self._next(rng)
                outcome = sender.send(session, self._base, request, expected, self.headers)
                with self._lock:
                    self.outcomes.append(outcome)
                if outcome.verdict in FAILED:
                    self._over.wait(_AFTER_FAILURE)

    def _next(self, rng: random.Random) -> tuple[ClientRequest, Expected]:
        """Return each request once, so that a short load covers all of them, and then draw by weight."""
        with self._lock:
            number, self.sent = self.sent, self.sent + 1
        if number < len(self._requests):
            return self._requests[number]
        return self._requests[bisect(self._steps, rng.random() * self._steps[-1])]

    def stop(self) -> None:
        """Send no further requests. The caller that started the clients waits for those in flight."""
        self._over.set()


@contextmanager
def running(load: Load, clients: int) -> Iterator[Load]:
    """Run clients until the end of the block, which waits for their last answers."""
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
    """Return whether count further requests ended within the given seconds."""
    target, deadline = len(load.outcomes) + count, time.monotonic() + seconds
    while time.monotonic() < deadline:
        if len(load.outcomes) >= target:
            return True
        time.sleep(0.05)
    return False
