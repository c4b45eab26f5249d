"""embed() and near-duplicates, against a server that makes embeddings of what it is sent."""

import asyncio
import base64
import json
import sys
from typing import Any

import numpy as np
import pytest
from densenet_client import AsyncClient, Client, NotTheService, RequestRejected
from densenet_client.answers import WIDTH
from densenet_client.embeddings import near_duplicates
from numpy.typing import NDArray

from tests.unit.client.test_client import FINE, Asked, Reply, answer, client_of, scripted, serving

Array = NDArray[np.float32]
REJECTION = Reply(415, '{"error": {"code": "not_an_image", "message": "this is text"}}')


def vector(seed: int) -> Array:
    return np.random.default_rng(seed).random(WIDTH, dtype=np.float32)


def embedded(asked: Asked) -> Reply:
    """The embedding that belongs to the number that was sent as image; text is refused."""
    if not asked.body.isdigit():
        return REJECTION
    text = base64.b64encode(vector(int(asked.body)).astype("<f4").tobytes()).decode()
    return Reply(body=json.dumps(json.loads(answer(asked.body.decode())) | {"embedding": text}))


def images(*numbers: int) -> list[Any]:
    return [str(number).encode() for number in numbers]


def test_an_answer_has_it_only_where_it_was_asked_for() -> None:
    with client_of(embedded) as (client, server):
        found = client.classify(b"7", embedding="l2")
        client.classify(b"7", embedding="raw", top_k=2)
        (also,) = client.classify_many([b"7"], embedding="raw")
        client.classify(b"7")
    names = ("X-Embedding", "X-Embedding-Norm", "X-Top-K")
    assert [[asked.headers.get(name) for name in names] for asked in server.asked] == [
        *(["base64", "l2", None], ["base64", "raw", "2"], ["base64", "raw", None], [None, None, None])
    ]
    assert np.array_equal(np.array(found.embedding, dtype=np.float32), vector(7))
    assert found == also
    assert hash(found)
    with client_of(scripted(FINE)) as (client, _):
        assert client.classify(b"photo").embedding == ()


@pytest.mark.parametrize("broken", [7, None, "?", "AAA", "AAAA", [0.5], {}])
def test_what_is_no_embedding_is_told(broken: object) -> None:
    document = json.dumps(json.loads(answer()) | {"embedding": broken})
    with client_of(scripted(Reply(body=document))) as (client, _), pytest.raises(NotTheService):
        client.classify(b"photo", embedding="raw")


def test_a_row_for_each_image_in_their_order() -> None:
    with client_of(embedded, parallel=8) as (client, server):
        found = client.embed(iter(images(*range(40))), norm="l2")
        none = client.embed([])
    assert (found.dtype, none.dtype, none.shape) == (np.float32, np.float32, (0, WIDTH))
    assert np.array_equal(found, np.stack([vector(number) for number in range(40)]))
    assert {(asked.headers["X-Embedding-Norm"], asked.headers["X-Top-K"]) for asked in server.asked} == {("l2", "1")}


def test_the_asynchronous_client_embeds_alike() -> None:
    async def ask(url: str) -> Array:
        async def each() -> Any:
            for image in images(*range(9)):
                yield image

        async with AsyncClient(url) as client:
            return np.concatenate([await client.embed(images(1, 2)), await client.embed(each(), norm="l2")])

    with serving(embedded) as server:
        found = asyncio.run(ask(server.url))
    assert np.array_equal(found, np.stack([vector(number) for number in (1, 2, *range(9))]))


def test_the_first_error_is_raised(tmp_path: Any) -> None:
    with client_of(embedded) as (client, _):
        with pytest.raises(RequestRejected, match="not_an_image"):
            client.embed([b"1", b"text", tmp_path / "missing.jpg"])
        with pytest.raises(FileNotFoundError):
            client.embed([b"1", tmp_path / "missing.jpg", b"text"])


def test_a_service_that_knows_no_embeddings_is_told() -> None:
    with client_of(scripted(FINE)) as (client, _), pytest.raises(NotTheService, match="older than this client"):
        client.embed([b"photo"])


def test_a_single_image_is_named() -> None:
    for one in ("photo.jpg", b"photo"):
        with Client() as client, pytest.raises(TypeError, match="put one image into a list"):
            client.embed(one)
        with pytest.raises(TypeError, match="put one image into a list"):
            asyncio.run(AsyncClient().embed(one))


def test_without_numpy_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with client_of(embedded) as (client, server):
        with pytest.raises(ImportError, match=r"pip install 'densenet-client\[embeddings\]'"):
            client.embed(images(1))
        assert len(client.classify(b"1", embedding="raw").embedding) == WIDTH
    assert len(server.asked) == 1


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class TestNearDuplicates:
    def test_groups_lie_anywhere_and_their_members_follow_by_similarity(self) -> None:
        """More images than are compared at a time."""
        rows = np.random.default_rng(0).standard_normal((700, WIDTH)).astype(np.float32)
        noise = np.random.default_rng(1).standard_normal((4, WIDTH)).astype(np.float32)
        for original, copy, distance, by in ((3, 500, 0.3, 0), (3, 90, 0.1, 1), (300, 301, 0.2, 2), (255, 256, 0, 3)):
            rows[copy] = rows[original] + distance * noise[by]
        rows = unit(rows)
        found = list(near_duplicates(rows, 0.9))
        assert [[position for position, _ in group] for group in found] == [[3, 90, 500], [255, 256], [300, 301]]
        for group in found:
            first = rows[group[0][0]]
            assert [cosine for _, cosine in group] == pytest.approx([first @ rows[i] for i, _ in group], abs=1e-6)

    def test_an_image_is_in_one_group_and_similar_to_its_first(self) -> None:
        """Of a chain a, b, c whose ends differ, c is not in the group of a."""
        a, b = np.eye(2, WIDTH, dtype=np.float32)
        angles = np.deg2rad([0, 20, 40])
        rows = np.stack([np.cos(angle) * a + np.sin(angle) * b for angle in angles]).astype(np.float32)
        assert [[position for position, _ in group] for group in near_duplicates(rows, 0.9)] == [[0, 1]]

    @pytest.mark.parametrize("count", [0, 1, 5])
    def test_without_any_there_are_no_groups(self, count: int) -> None:
        rows = unit(np.random.default_rng(0).standard_normal((count, WIDTH)).astype(np.float32))
        assert list(near_duplicates(rows, 0.9)) == []
