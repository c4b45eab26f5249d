"""A steady load whose every answer is compared with the known one."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import requests

from densenet.service import tokens
from tests.photos import cutouts, encode

PHOTOS = [encode(image) for image in cutouts(4)]


@dataclass
class Load:
    """Clients that send photos one after another for the time of a `with` block.

    known: for each of PHOTOS the classes that may be its best one. outcomes: what clients saw, counted: the version
    that answered rightly, or what else came.
    """

    url: str
    known: list[set[str]]
    keys: Path | None = None
    clients: int = 3
    outcomes: Counter[str] = field(default_factory=Counter)
    _over: Event = field(default_factory=Event)
    _threads: list[Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [Thread(target=self._ask) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        self.wait_for(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(120)

    def wait_for(self, answers: int) -> None:
        """Returns when so many more answers have come."""
        aim, deadline = self.outcomes.total() + answers, time.monotonic() + 120
        while self.outcomes.total() < aim and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.outcomes.total() >= aim

    def _ask(self) -> None:
        with requests.Session() as session:
            for i in range(1_000_000):
                if self._over.is_set():
                    return
                self.outcomes[self._one(session, i % len(PHOTOS))] += 1

    def _one(self, session: requests.Session, i: int) -> str:
        token = tokens.current(self.keys, "inference") if self.keys else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            response = session.put(self.url, data=PHOTOS[i], headers=headers, timeout=60)
            answer: dict[str, Any] = response.json()
        except (requests.RequestException, ValueError) as error:
            return type(error).__name__
        if not response.ok:
            return f"{response.status_code} {response.text[:80]}"
        return answer["model"]["version"] if answer["class_id"] in self.known[i] else f"wrong: {answer['class_id']}"


def best_classes(url: str, **headers: str) -> list[str]:
    """The best class of each of PHOTOS, asked quietly."""
    return [requests.put(url, data=photo, headers=headers, timeout=60).json()["class_id"] for photo in PHOTOS]
