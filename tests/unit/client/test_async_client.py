"""The asynchronous client against the same servers that misbehave."""

import asyncio
import io
import json
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from densenet_client import (
    AsyncClient,
    Client,
    NotTheService,
    RequestRejected,
    ServiceError,
    ServiceUnavailable,
    Unauthorized,
)
from PIL import Image

from tests.photos import cutouts, encode
from tests.unit.client.test_client import (
    BUSY,
    EXPLANATION,
    FINE,
    INVALID_KEY,
    NOBODY,
    Asked,
    Counting,
    Reply,
    Script,
    answer,
    label,
    labelling,
    numbered,
    scripted,
    serving,
)

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """To its end, and no task is left behind."""

    async def alone() -> T:
        result = await work
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return asyncio.run(alone())


async def one(url: str, image: Any = b"photo", **options: Any) -> Any:
    async with AsyncClient(url, **options) as client:
        return await client.classify(image)


async def many(url: str, images: Any, **options: Any) -> list[Any]:
    async with AsyncClient(url, **options) as client:
        return [result async for result in client.classify_many(images)]


def test_it_reads_what_the_other_client_reads_of_the_same_requests(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(cutouts(1)[0]))

    async def asking(url: str) -> list[object]:
        async with AsyncClient(url, token="secret") as client:
            return [
                await client.classify(path, top_k=3, min_probability=0.5),
                await client.explain(path, target=["고양이", 7], overlays="none"),
                await client.explain(cutouts(1)[0], target=7),
            ]

    def script(asked: Asked) -> Reply:
        return Reply(body=json.dumps(json.loads(answer()) | {"explanations": [EXPLANATION], "crop": [0, 0, 1, 1]}))

    with serving(script) as server:
        ours = run(asking(server.url))
        with Client(server.url, token="secret") as client:
            theirs = [
                client.classify(path, top_k=3, min_probability=0.5),
                client.explain(path, target=["고양이", 7], overlays="none"),
                client.explain(cutouts(1)[0], target=7),
            ]
        assert ours == theirs
        for first, second in zip(server.asked[:3], server.asked[3:], strict=True):
            assert first.path == second.path
            kept = ("X-Top-K", "X-Min-Probability", "X-Target", "X-Overlays", "Authorization")
            assert [first.headers.get(name) for name in kept] == [second.headers.get(name) for name in kept]
            bodies = [asked.body.replace(boundary(asked), b"") for asked in (first, second)]
            assert bodies[0] == bodies[1]


def boundary(asked: Asked) -> bytes:
    return asked.headers["Content-Type"].partition("boundary=")[2].encode() or b"no form"


def test_settings_out_of_range_and_single_images_are_named() -> None:
    with pytest.raises(ValueError, match="parallel must be at least 1, not 0"):
        AsyncClient(parallel=0)
    with pytest.raises(TypeError, match="needs several images"):
        AsyncClient().classify_many(b"photo")
    with pytest.raises(TypeError, match="a path, bytes or a Pillow image, not int"):
        run(one(NOBODY, 7))
    with pytest.raises(ServiceError, match=r"nowhere\.pem"):
        run(one("https://127.0.0.1:9/", verify="/nowhere.pem"))


def test_a_full_queue_and_a_lost_connection_are_tried_again() -> None:
    with serving(scripted(BUSY, None, Reply(announced=10_000), FINE)) as server:
        assert run(one(server.url))[0].label == "cat"
        assert [asked.body for asked in server.asked] == [b"photo"] * 4


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (2, 3)])
def test_until_the_retries_are_used_up(retries: int, tries: int) -> None:
    with serving(scripted(BUSY)) as server:
        with pytest.raises(ServiceError, match=r"answered 503.*no worker"):
            run(one(server.url, retries=retries))
        assert len(server.asked) == tries


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (Reply(415, '{"error": {"code": "not_an_image", "message": "this is text"}}'), RequestRejected, "not_an_image"),
        (Reply(413, ""), RequestRejected, "MiB exceed the service's limit"),
        (Reply(400, INVALID_KEY), Unauthorized, "requires a token"),
        (Reply(500, "<html>"), ServiceError, "answered 500 with an unexpected response"),
        (Reply(301, "", {"Location": NOBODY}), NotTheService, "answered 301"),
        (Reply(200, "<html>"), NotTheService, "answered 200"),
    ],
)
def test_errors_are_the_other_clients(reply: Reply, error: type[Exception], message: str) -> None:
    with serving(scripted(reply)) as server:
        with pytest.raises(error, match=message):
            run(one(server.url))
        assert len(server.asked) == 1


def test_nobody_there_and_a_silent_service_are_told() -> None:
    with pytest.raises(ServiceUnavailable, match="start the service with scripts/serve"):
        run(one(NOBODY))
    with pytest.raises(ServiceUnavailable):
        run(many(NOBODY, numbered(100)))
    end = threading.Event()

    def silent(_: Asked) -> Reply:
        end.wait(20)
        return FINE

    with serving(silent) as server:
        try:
            with pytest.raises(ServiceError, match=r"no answer from .* within 0\.5 seconds"):
                run(one(server.url, timeout=0.5))
            assert len(server.asked) == 1
        finally:
            end.set()


def test_results_come_in_the_order_of_the_images_as_many_at_once_as_wanted() -> None:
    counting = Counting(4)
    with serving(counting) as server:
        assert [label(result) for result in run(many(server.url, numbered(20), parallel=4))] == list(
            map(str, range(20))
        )
    assert counting.most == 4


def test_images_may_come_asynchronously_and_are_taken_only_a_little_ahead() -> None:
    taken = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal taken
        while True:
            taken += 1
            yield b"photo"

    async def asking(url: str) -> None:
        async with (
            AsyncClient(url, parallel=3) as client,
            aclosing(endless()) as images,
            aclosing(client.classify_many(images)) as results,
        ):
            assert taken == 0
            for done in range(1, 30):
                await anext(results)
                assert done <= taken <= done + 6

    with serving(labelling) as server:
        run(asking(server.url))
        assert len(server.asked) <= 29 + 6


def test_what_changes_later_was_sent_as_it_was() -> None:
    buffer = bytearray(b"0")

    def moving() -> Iterator[bytearray]:
        for i in range(8):
            buffer[:] = str(i).encode()
            yield buffer

    with serving(labelling) as server:
        assert [label(result) for result in run(many(server.url, moving()))] == list(map(str, range(8)))


def test_an_error_stands_in_its_place_and_keeps_no_image_alive(tmp_path: Path) -> None:
    damaged = Image.open(io.BytesIO(encode(cutouts(1)[0])[:9000]))

    def mixed(asked: Asked) -> Reply | None:
        odd = {b"strange": Reply(500, "oops"), b"busy": BUSY}
        return odd.get(asked.body) or labelling(asked)

    images = [b"0", tmp_path, damaged, b"strange", tmp_path / "none", b"busy", b"6"]
    script: Script = mixed
    with serving(script) as server:
        found = run(many(server.url, images))
    expected = "0 IsADirectoryError OSError ServiceError FileNotFoundError Unavailable 6"
    assert " ".join(map(label, found)) == expected
    errors = [result for result in found if isinstance(result, Exception)]
    assert {(error.__cause__, error.__context__, error.__traceback__) for error in errors} == {(None, None, None)}


def test_a_wrong_token_ends_them_all() -> None:
    def expiring(asked: Asked) -> Reply:
        return labelling(asked) if asked.number < 5 else Reply(400, INVALID_KEY)

    with serving(expiring) as server:
        with pytest.raises(Unauthorized):
            run(many(server.url, numbered(100), parallel=2))
        assert len(server.asked) < 20


def test_closing_early_cancels_what_is_under_way() -> None:
    arrived, end = threading.Event(), threading.Event()

    def stuck(asked: Asked) -> Reply:
        if asked.body == b"0":
            return FINE
        arrived.set()
        end.wait(20)
        return BUSY

    async def asking(url: str) -> float:
        async with AsyncClient(url, parallel=2) as client:
            results = client.classify_many(numbered(100))
            await anext(results)
            await asyncio.to_thread(arrived.wait, 20)
            begun = time.monotonic()
            await results.aclose()
            return time.monotonic() - begun

    with serving(stuck) as server:
        try:
            assert run(asking(server.url)) < 10
            sent = [asked.body for asked in server.asked]
            assert len(set(sent)) == len(sent) <= 5
        finally:
            end.set()


def test_the_loop_is_free_while_the_service_works() -> None:
    end = threading.Event()

    def slow(_: Asked) -> Reply:
        end.wait(20)
        return FINE

    async def asking(url: str) -> int:
        async with AsyncClient(url) as client:
            task = asyncio.create_task(client.classify(b"photo"))
            turns = 0
            while not task.done():
                turns += 1
                if turns == 10:
                    end.set()
                await asyncio.sleep(0.01)
            await task
            return turns

    with serving(slow) as server:
        assert run(asking(server.url)) >= 10
