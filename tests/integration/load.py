"""A steady load whose every answer is compared with the known one."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from densenet.chaos.load import Load
from densenet.service import tokens
from tests.photos import cutouts, encode

PHOTOS = [encode(image) for image in cutouts(4)]
# Seconds between a client's answer and its next request. Without, the load would take all processor time from workers
# that start meanwhile.
PAUSE = 0.3


@contextmanager
def loading(
    url: str,
    known: Sequence[str],
    keys: Path | None = None,
    clients: int = 3,
    pause: float = PAUSE,
    others: Mapping[str, Sequence[str]] | None = None,
    **more: str,
) -> Iterator[Load[str]]:
    """Clients that send photos one after another for the time of the block.

    known: for each of PHOTOS its best class. others: the same, of versions that answer differently. more: headers. An
    outcome is the version that answered rightly, or what else came.
    """

    def send(session: requests.Session, number: int) -> str:
        which = number % len(PHOTOS)
        time.sleep(pause)
        token = tokens.current(keys, "inference") if keys else None
        headers = more | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            response = session.put(url, data=PHOTOS[which], headers=headers, timeout=60)
            answer: dict[str, Any] = response.json()
        except (requests.RequestException, ValueError) as error:
            return type(error).__name__
        if not response.ok:
            return f"{response.status_code} {response.text[:80]}"
        version: str = answer["model"]["version"]
        right = (others or {}).get(version, known)[which]
        return version if answer["class_id"] == right else f"wrong: {version}, {answer['class_id']}"

    with Load(send).running(clients) as load:
        load.wait_for_answers(5, "at first")
        yield load


def best_classes(url: str, **headers: str) -> list[str]:
    """The best class of each of PHOTOS, asked quietly."""
    return [requests.put(url, data=photo, headers=headers, timeout=60).json()["class_id"] for photo in PHOTOS]
