"""Requests that share a batch do not touch each other."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import requests

from tests.integration.conftest import Server, same
from tests.photos import cutouts, encode

PHOTOS = [encode(image) for image in cutouts(4)]
OCTETS = {"Content-Type": "application/octet-stream"}

BAD: dict[str, Callable[[str], requests.Response]] = {
    "not an image": lambda url: requests.post(url, data=b"text", headers=OCTETS, timeout=60),
    "a truncated image": lambda url: requests.post(url, data=PHOTOS[0][:9000], headers=OCTETS, timeout=60),
    "broken JSON": lambda url: requests.post(
        url, data=b'{"instances": [', headers={"Content-Type": "application/json"}, timeout=60
    ),
    "a bad option": lambda url: requests.post(url, data=PHOTOS[0], headers=OCTETS | {"X-Top-K": "x"}, timeout=60),
    "an empty form": lambda url: requests.post(
        url, data="a", headers={"Content-Type": "multipart/form-data"}, timeout=60
    ),
    "an urlencoded photo": lambda url: requests.post(url, data={"a": "b"}, timeout=60),
    "a part named like a header": lambda url: requests.post(
        url, files={"accept": b"x", "x-top-k": b"y", "content-length": b"z", "describe": b"q"}, timeout=60
    ),
    "nothing": lambda url: requests.get(url, timeout=60),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_request_leaves_its_batch_mates_alone(batching: Server, bad: str) -> None:
    alone = [batching.send(photo).json() for photo in PHOTOS]
    workers = batching.workers()
    barrier = Barrier(5)

    def good(photo: bytes) -> requests.Response:
        barrier.wait()
        return batching.send(photo)

    def evil(_: bytes) -> requests.Response:
        barrier.wait()
        return BAD[bad](batching.url)

    with ThreadPoolExecutor(5) as clients:
        jobs = [clients.submit(good, photo) for photo in PHOTOS] + [clients.submit(evil, b"")]
        *answers, refused = [job.result() for job in jobs]
    assert [answer.status_code for answer in answers] == [200] * 4
    for answer, expected in zip(answers, alone, strict=True):
        assert same(answer.json(), expected)
    if refused.status_code != 200:
        assert 400 <= refused.status_code < 500
    else:
        assert not any(result["success"] for result in refused.json()["results"])
    assert batching.workers() == workers


def test_a_clients_describe_header_does_not_change_its_batch(batching: Server) -> None:
    headers: list[dict[str, str]] = [{"describe": "True"}, {}, {"explain": "True"}, {"Describe": "true"}]
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda i: batching.send(PHOTOS[i], **headers[i]), range(4)))
    assert [answer.json()["success"] for answer in answers] == [True] * 4
