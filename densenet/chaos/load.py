"""Load: clients that send requests without a pause until stopped, and the outcome of every request."""

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, Self, TypeVar

from requests import Session

from densenet.chaos import sender
from densenet.chaos.oracle import FAILED, Expected, Outcome
from densenet.chaos.sender import ClientRequest
from densenet.polling import wait_until
from export.console import CliError

PATIENCE = 180  # seconds, for every wait
_AFTER_FAILURE = 0.25  # seconds that a client waits after a failure
T = TypeVar("T")


class Load(Generic[T]):
    """Clients in threads. send: sends request number 0, 1, … in a client's session and returns its outcome.

    failed: whether an outcome is a failure, after which the client waits for a moment.
    """

    def __init__(self, send: Callable[[Session, int], T], failed: Callable[[T], bool] = lambda _: False) -> None:
        self.sent = 0
        self.outcomes: list[T] = []
        self._send, self._failed = send, failed
        self._over, self._lock = threading.Event(), threading.Lock()
        self._clients: list[Future[None]] = []

    @contextmanager
    def running(self, clients: int) -> Iterator[Self]:
        """Run clients until the end of the block, which waits for their last answers.

        Raises: the error of `send` that ended a client, unless the block itself raises.
        """
        with ThreadPoolExecutor(clients) as pool:
            self._clients = [pool.submit(self._run_client) for _ in range(clients)]
            try:
                yield self
            finally:
                self._over.set()
        self._raise_errors()

    def wait_for_answers(self, count: int, when: str) -> None:
        """Wait until so many further requests have ended. when: for the message of the error.

        Raises: CliError if it takes too long, or the error of `send` that ended a client.
        """
        target = len(self.outcomes) + count

        def answered() -> bool:
            self._raise_errors()
            return len(self.outcomes) >= target

        if not wait_until(answered, PATIENCE):
            raise CliError(f"clients received fewer than {count} answers in {PATIENCE} seconds {when}")

    def _raise_errors(self) -> None:
        for client in self._clients:
            if client.done():
                client.result()

    def _run_client(self) -> None:
        with sender.quiet_session() as session:
            while not self._over.is_set():
                with self._lock:
                    number, self.sent = self.sent, self.sent + 1
                outcome = self._send(session, number)
                self.outcomes.append(outcome)
                if self._failed(outcome):
                    self._over.wait(_AFTER_FAILURE)


class JudgedLoad(Load[Outcome]):
    """A load of requests whose answers are known.

    expected: the answer of each request. weights: relative frequency of each request; uniform by default. headers may
    change while the clients run, for example after a token was renewed.
    """

    def __init__(
        self,
        base: str,
        requests: Sequence[ClientRequest],
        expected: Sequence[Expected],
        weights: Sequence[int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(self._send_next, lambda outcome: outcome.verdict in FAILED)
        self.headers = headers
        self._base, self._weights = base, weights
        self._requests = list(zip(requests, expected, strict=True))

    def _send_next(self, session: Session, number: int) -> Outcome:
        """Send each request once, so that a short load covers all of them, and then draw by weight."""
        if number < len(self._requests):
            request, expected = self._requests[number]
        else:
            ((request, expected),) = random.Random(number).choices(self._requests, self._weights)
        return sender.send(session, self._base, request, expected, self.headers)
