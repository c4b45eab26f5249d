"""Files that cost far more than they look, over HTTP: bounded time and memory, no worker lost, and a good photo beside
them answered as if it had come alone."""

import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from threading import Barrier
from typing import Any

import psutil
import pytest

from densenet.background import repeating
from densenet.fuzz.costly import COSTLY, LIMIT
from densenet.service import torchserve
from tests.integration.conftest import Server, same
from tests.photos import cutouts, encode

# What one request may cost at most, whatever is in it.
MAX_CPU, MAX_MEMORY = 12.0, 1_700_000_000
MOST_IMAGES = 16
FORM_BYTES = 500  # of a part's framing, generously
GOOD = encode(cutouts(1)[0])

# Of every way to be costly one; those that go together share a check, or take the same path through a decoder.
ALONE = (
    *("tiff-icc-stages", "jpeg-icc-most-stages", "tiff-icc-segments", "tiff-oversized-tiles-more"),
    *("tiff-oversized-tile", "tiff-byte-offsets", "tiff-wide-rows", "tiff-rational-offsets", "tiff-jpeg-strips"),
    *("tiff-tags-of-one-value", "tiff-nested-rationals", "tiff-rational-colours", "tiff-fax"),
    *("jpeg-exif-segments", "jpeg-exif-nested", "jpeg-scans", "jpeg-scans-of-nothing-arithmetic", "jpeg-padding"),
    *("png-exif-rationals", "png-profiles", "png-nameless-texts", "png-tall", "webp-exif-rationals", "gif-comments"),
    *("bmp-early-end-of-line", "avif-grid-of-noise", "avif-items", "avif-exif-rationals", "webp-lossless"),
    *("jpeg-without-end", "png-damaged-chunks"),
)
MANY = (
    *("tiff-icc-stages", "tiff-oversized-tiles-more", "tiff-oversized-tile", "tiff-jpeg-strips", "jpeg-scans"),
    *("bmp-early-end-of-line", "png-tall", "avif-grid", "webp-lossless"),
)
IN_A_BATCH = ("tiff-icc-stages", "avif-grid", "jpeg-scans", "png-nameless-texts")


@cache
def costly(name: str) -> bytes:
    return COSTLY[name]()


def tree(server: Server) -> list[psutil.Process]:
    """The workers and all that they have started."""
    workers = torchserve.worker_processes(server.service)
    return workers + [child for worker in workers for child in worker.children(recursive=True)]


def processor_time(server: Server) -> float:
    """Seconds of the workers and of what they have started, also of what has ended since."""
    return sum(sum(process.cpu_times()[:4]) for process in tree(server))  # own and children's, user and system


def memory(server: Server) -> int:
    total = 0
    for process in tree(server):
        with suppress(psutil.NoSuchProcess):  # a decoder that was replaced in between
            total += process.memory_info().rss
    return total


@contextmanager
def bounded(server: Server) -> Iterator[None]:
    """Asserts of what is asked in it that it cost no worker, and no more than one request may cost."""
    workers, cpu, base, log = server.workers(), processor_time(server), memory(server), server.log()
    seen = [base]

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            seen.append(memory(server))

    with repeating(watch, 0.05):
        yield
    assert server.workers() == workers
    assert processor_time(server) - cpu < MAX_CPU
    assert max(seen) - base < MAX_MEMORY
    assert "unexpected failure" not in server.log()[len(log) :]


def result_of(content: dict[str, Any], name: str) -> dict[str, Any]:
    """One image's result among several, as it is of an image alone."""
    (found,) = (result for result in content["results"] if result["name"] == name)
    return {key: value for key, value in found.items() if key != "name"}


@pytest.fixture(scope="module")
def alone(server: Server) -> dict[str, Any]:
    """What the good photo is answered by itself."""
    answer: dict[str, Any] = server.send(GOOD).json()
    assert answer["success"]
    return answer


def check_answer(response: Any, alone: dict[str, Any]) -> None:
    """A result an image: of the good photo its own, of the others a picture's or a refusal."""
    assert response.status_code == 200, response.text
    content = response.json()
    assert same(result_of(content, "good"), alone)
    for result in content["results"]:
        assert result["success"] or not result["error"]["code"].startswith("internal"), result


@pytest.mark.parametrize("name", ALONE)
def test_a_costly_file_beside_a_good_photo(server: Server, alone: dict[str, Any], name: str) -> None:
    if len(costly(name)) + len(GOOD) + 2 * FORM_BYTES > LIMIT:
        pytest.skip("no room for a photo")
    with bounded(server):
        check_answer(server.post(files={"costly": costly(name), "good": GOOD}), alone)


@pytest.mark.parametrize("name", ["avif-items", "tiff-icc-most-stages", "png-exif-rationals"])
def test_a_costly_file_by_itself(server: Server, name: str) -> None:
    with bounded(server):
        response = server.send(costly(name))
    assert response.status_code == 200 or 400 <= response.status_code < 500
    assert response.json()["success"] is (response.status_code == 200)


@pytest.mark.parametrize("name", MANY)
def test_as_many_costly_files_as_a_request_may_have(server: Server, alone: dict[str, Any], name: str) -> None:
    count = min(MOST_IMAGES - 1, (LIMIT - len(GOOD)) // (len(costly(name)) + FORM_BYTES) - 1)
    files = {f"costly {i}": costly(name) for i in range(count)}
    with bounded(server):
        check_answer(server.post(files={**files, "good": GOOD}), alone)


@pytest.mark.parametrize("name", ["webp-lossless", "tiff-jpeg-strips"])
def test_a_costly_file_sent_from_the_page(server: Server, name: str) -> None:
    with bounded(server):
        response = server.post(files={"file": costly(name)}, headers={"Accept": "text/html"})
    assert response.status_code == 200 or 400 <= response.status_code < 500
    assert response.headers["Content-Type"].startswith("text/html")


def test_numbers_that_processors_are_slow_at(server: Server) -> None:
    """Images as numbers, all of them denormal."""
    count, values = MOST_IMAGES, 3 * 224 * 224
    blob = struct.pack("<f", 1e-40) * (count * values)
    size = {"binary_data_size": len(blob)}
    tensor = {"name": "x", "datatype": "FP32", "shape": [count, 3, 224, 224], "parameters": size}
    text = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text))}
    with bounded(server):
        assert server.post(data=text + blob, headers=headers).status_code == 200


@pytest.mark.parametrize("name", IN_A_BATCH)
def test_a_good_photo_in_the_batch_of_a_costly_request(batching: Server, alone: dict[str, Any], name: str) -> None:
    together = Barrier(4)

    def ask(content: bytes) -> Any:
        together.wait()
        return batching.send(content)

    with bounded(batching), ThreadPoolExecutor(4) as clients:
        first, second, third, refused = clients.map(ask, [GOOD, GOOD, GOOD, costly(name)])
    assert refused.status_code == 200 or 400 <= refused.status_code < 500
    for good in (first, second, third):
        assert good.status_code == 200
        assert same(good.json(), alone)
