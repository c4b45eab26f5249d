"""The Python client against real services."""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from densenet_client import (
    Answer,
    AsyncClient,
    Client,
    NotTheService,
    RequestRejected,
    ServiceError,
    Unauthorized,
    classify,
)
from densenet_client.embeddings import Norm
from densenet_client.images import Source
from PIL import Image
from pyarrow import parquet
from stamina.instrumentation import RetryDetails
from torch import nn

from export import ROOT
from handler.errors import ErrorCode
from tests import environments
from tests.integration.conftest import Guarded, Server, Starter, build_archive, guarding
from tests.integration.truth import PHOTOS, eager_embeddings, preprocessed
from tests.photos import cutouts, encode


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def as_answer(response: requests.Response) -> list[tuple[str, float]]:
    return [(row["class_id"], row["probability"]) for row in response.json()["predictions"]]


def pairs(answer: Answer) -> list[tuple[str, float]]:
    return [(row.class_id, row.probability) for row in answer]


def test_it_reads_what_the_service_says(client: Client, server: Server) -> None:
    photo = encode(cutouts(1)[0])
    document = server.send(photo, **{"X-Top-K": "7"}).json()
    answer = client.classify(photo, top_k=7)
    rows = [{"class_id": row.class_id, "label": row.label, "probability": row.probability} for row in answer]
    assert rows == document["predictions"]
    assert (answer.recognized, answer.model.facts()) == (document["recognized"], document["model"])
    assert (len(answer), answer.unknown_score, answer[0].logit) == (7, None, None)


def test_it_reads_explanations(client: Client, server: Server) -> None:
    photo = encode(cutouts(1)[0])
    headers = {"Content-Type": "application/octet-stream", "X-Target": "7,n02124075"}
    document = requests.post(server.explaining, data=photo, headers=headers, timeout=60).json()
    answer = client.explain(photo, target=[7, "n02124075"])
    assert list(answer.crop or ()) == document["crop"]
    assert (answer.predictions, answer.model) == (client.classify(photo).predictions, client.classify(photo).model)
    for ours, theirs in zip(answer.explanations, document["explanations"], strict=True):
        assert [list(row) for row in ours.map] == theirs["map"]
        for png, text in ((ours.overlay, theirs["overlay"]), (ours.picture, theirs["picture"])):
            assert png == base64.b64decode(text)
    with pytest.raises(RequestRejected, match="several classes"):
        client.explain(photo, target="crane")


@pytest.mark.parametrize("norm", ["raw", "l2"])
def test_it_embeds_photos(client: Client, server: Server, network: nn.Module, norm: Norm) -> None:
    expected = eager_embeddings(network, torch.stack([preprocessed(photo) for photo in PHOTOS])).numpy()
    if norm == "l2":
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)

    async def embed() -> object:
        async with AsyncClient(server.url) as own:
            return await own.embed(PHOTOS, norm=norm)

    found = client.embed(PHOTOS, norm=norm)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.array_equal(found, asyncio.run(embed()))
    one = client.classify(PHOTOS[0], top_k=3, embedding=norm)
    assert np.array_equal(np.array(one.embedding, dtype=np.float32), found[0])
    assert one.predictions == client.classify(PHOTOS[0], top_k=3).predictions


def test_predict_writes_embeddings_and_finds_duplicates(server: Server, tmp_path: Path) -> None:
    for i, image in enumerate(cutouts(5)):
        (tmp_path / f"{i}.jpg").write_bytes(encode(image, quality=95))
    (tmp_path / "small copy of 3.webp").write_bytes(encode(cutouts(5)[3].resize((333, 223)), "WEBP"))

    def predict(*options: object) -> str:
        command = [sys.executable, "-P", "-m", "densenet_client.predict", "--url", server.url, tmp_path, *options]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    predict("--embeddings", tmp_path / "all.npz")
    predict("--embeddings", tmp_path / "all.parquet")
    with np.load(tmp_path / "all.npz") as arrays:
        assert arrays["files"].tolist() == sorted(str(path) for path in tmp_path.glob("*.[jw]*p*"))
        rows = arrays["embeddings"]
    table = parquet.read_table(tmp_path / "all.parquet")
    assert np.array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32), rows)
    with Client(server.url) as client:
        assert np.array_equal(client.embed(table["file"].to_pylist()), rows)
    (group,) = map(json.loads, predict("--duplicates", "--json").splitlines())
    assert [Path(row["file"]).name for row in group["files"]] == ["3.jpg", "small copy of 3.webp"]


def test_options_choose_what_is_listed_and_recognized(client: Client) -> None:
    photo = encode(cutouts(1)[0])
    best = client.classify(photo)[0].probability
    assert client.classify(photo, min_probability=best).recognized
    assert not client.classify(photo, min_probability=min(1, best * 1.01)).recognized
    assert len(client.classify(photo, top_k=1000)) == 1000


def test_path_bytes_and_picture_of_one_photo_have_one_answer(client: Client, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(cutouts(3)[2], quality=80))
    with Image.open(path) as picture:
        sources: list[Source] = [path, str(path), path.read_bytes(), memoryview(path.read_bytes()), picture]
        answers = list(client.classify_many(sources))
        answers += [client.classify(source) for source in sources]
    answers.append(classify(path, url=server.url))
    assert [answer == answers[0] for answer in answers] == [True] * 11


def test_a_photo_that_lies_on_its_side_is_turned_either_way(client: Client, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    cutouts(1)[0].save(tmp_path / "side.jpg", exif=exif)
    with Image.open(tmp_path / "side.jpg") as picture:
        assert client.classify(picture) == client.classify(tmp_path / "side.jpg")


INSTALLED = """
import sys
url, photo = sys.argv[1:]

from densenet_client import classify
answer = classify(photo, url=url)
print([row.class_id for row in answer])

import asyncio
from densenet_client import AsyncClient
async def main():
    async with AsyncClient(url) as client:
        return [await client.classify(photo)] + [result async for result in client.classify_many([photo] * 3)]
print(all(other == answer for other in asyncio.run(main())))
print({"PIL", "numpy", "typer", "rich", "torch", "requests"} & set(sys.modules))

from densenet_client import Client
with Client(url) as client:
    print(len(client.classify(photo, embedding="raw").embedding))
    try:
        client.embed([photo])
    except ImportError as error:
        print(error)
"""


def test_its_wheel_in_an_empty_environment_asks_the_service(client: Client, server: Server, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encode(cutouts(1)[0]))
    expected = [row.class_id for row in client.classify(photo)]
    programs = environments.with_wheel(tmp_path, ROOT / "client")

    def run(*command: object, errors: str = "") -> str:
        words = list(map(str, command))
        done = subprocess.run(words, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, errors)
        return done.stdout

    assert run(programs / "python", "-c", INSTALLED, server.url, photo).splitlines() == [
        *(f"{expected}", "True", "set()", "1024"),
        "embeddings need numpy; install it with: pip install 'densenet-client[embeddings]'",
    ]
    model = client.classify(photo).model
    asked = f"{server.url}: densenet 1.0, weights {model.weights}, fp32\n"
    (line,) = run(programs / "densenet-predict", "--json", "--url", server.url, photo, errors=asked).splitlines()
    assert [row["class_id"] for row in json.loads(line)["predictions"]] == expected
    run(programs / "densenet-predict", "--output", "out.csv", "--resume", "--url", server.url, photo, errors=asked)
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows[1:]] == expected
    (typed,) = (programs.parent / "lib").glob("python*/site-packages/densenet_client/py.typed")
    assert typed.exists()


def test_the_asynchronous_client_gives_the_same_answers(client: Client, server: Server, tmp_path: Path) -> None:
    photos: list[Source] = [encode(image) for image in cutouts(12)]
    photos[3:3] = [b"this is text", tmp_path / "missing.jpg"]

    async def ask() -> list[object]:
        async with AsyncClient(server.url, parallel=8) as own:
            explained = await own.explain(photos[0], target=7)
            return [explained, *[result async for result in own.classify_many(photos)]]

    explained, *results = asyncio.run(ask())
    assert explained == client.explain(photos[0], target=7)
    refused, missing = results.pop(3), results.pop(3)
    assert isinstance(refused, RequestRejected)
    assert refused.code == ErrorCode.NOT_AN_IMAGE
    assert isinstance(missing, FileNotFoundError)
    assert results == [client.classify(photo) for photo in [*photos[:3], *photos[5:]]]


MODES = ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "RGBX")


def picture_and_file(mode: str) -> tuple[Image.Image, bytes]:
    """A picture in that mode, and a file that holds the same."""
    photo = cutouts(5)[4]
    grey = photo.convert("L")
    if mode in ("YCbCr", "HSV", "RGBX"):
        picture = photo.convert(mode)
        return picture, encode(picture.convert("RGB"), "PNG")
    if mode in ("LA", "RGBA"):
        picture = photo.convert(mode)
        picture.putalpha(grey)
    elif mode.startswith("I"):
        picture = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257).convert(mode)
    else:
        picture = photo.convert(mode)
    return picture, encode(picture, "TIFF" if mode in ("CMYK", "I", "F") else "PNG")


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode_are_sent_as_they_are(client: Client, mode: str) -> None:
    picture, file = picture_and_file(mode)
    assert picture.mode == mode
    assert client.classify(picture) == client.classify(file)


def test_many_at_once_come_back_in_order_with_the_bad_ones_in_their_places(server: Server, tmp_path: Path) -> None:
    photos: list[Source] = [encode(image) for image in cutouts(24)]
    with Client(server.url, parallel=8) as client:
        alone = [client.classify(photo) for photo in photos]
        photos[3:3] = [b"this is text"]
        photos[11:11] = [tmp_path / "missing.jpg"]
        together = list(client.classify_many(iter(photos)))
    refused, missing = together.pop(3), together.pop(10)
    assert isinstance(refused, RequestRejected)
    assert refused.code == ErrorCode.NOT_AN_IMAGE
    assert isinstance(missing, FileNotFoundError)
    assert together == alone
    assert len({answer[0] for answer in alone}) > 12


@pytest.mark.parametrize(
    ("image", "options", "code"),
    [
        (b"this is text", {}, ErrorCode.NOT_AN_IMAGE),
        (b"", {}, ErrorCode.NO_IMAGE),
        (b"%PDF-1.7 \0\0", {}, ErrorCode.UNSUPPORTED_FORMAT),
        (encode(cutouts(1)[0])[:9000], {}, ErrorCode.BROKEN_IMAGE),
        (encode(Image.new("1", (8001, 8000)), "PNG"), {}, ErrorCode.TOO_MANY_PIXELS),
        (encode(cutouts(1)[0]), {"top_k": 0}, ErrorCode.BAD_OPTION),
        (encode(cutouts(1)[0]), {"min_probability": 1.5}, ErrorCode.BAD_OPTION),
    ],
)
def test_refusals_have_the_services_code_and_status(
    client: Client, image: bytes, options: dict[str, float], code: ErrorCode
) -> None:
    with pytest.raises(RequestRejected) as refusal:
        client.classify(image, **options)  # type: ignore[arg-type]
    assert (refusal.value.code, refusal.value.status) == (code, code.status)
    assert refusal.value.message


def test_a_picture_too_large_to_send_is_refused(client: Client) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8))
    with pytest.raises(RequestRejected, match=r"1[12]\.\d MiB exceed the service's limit") as refusal:
        client.classify(noise)
    assert (refusal.value.code, refusal.value.status) == ("request_too_large", 413)
    assert client.classify(noise.resize((224, 224)))


def test_another_address_of_torchserve_is_not_the_service(server: Server) -> None:
    with pytest.raises(NotTheService, match="answered 404 with an unexpected response"):
        classify(b"photo", url=f"{server.service.inference}/predictions/other")


def test_a_full_queue_is_mended_by_trying_again(start: Starter, retries: list[RetryDetails]) -> None:
    server = start(workers=1, jobQueueSize=1)
    photos = [encode(image) for image in cutouts(32)]
    with Client(server.url, parallel=1) as client:
        alone = list(client.classify_many(photos))
    assert retries == []
    with Client(server.url, parallel=16, retries=100) as client:
        assert list(client.classify_many(photos)) == alone
    assert retries != []
    with Client(server.url, parallel=16, retries=0) as client:
        rushed = list(client.classify_many(photos))
    for result, expected in zip(rushed, alone, strict=True):
        assert result == expected or (isinstance(result, ServiceError) and "answered 503" in str(result))
    assert {type(result) is Answer for result in rushed} == {True, False}


@pytest.fixture(scope="module")
def guarded(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with guarding(build_archive(exported, folder, workers=1), folder) as service:
        yield service


class TestToken:
    def test_the_inference_key_opens_the_service(self, guarded: Guarded, server: Server) -> None:
        photo = encode(cutouts(1)[0])
        token = guarded.keys["inference"]
        assert pairs(classify(photo, url=guarded.url, token=token)) == as_answer(server.send(photo))
        with Client(guarded.url, token=token) as client:
            results = list(client.classify_many([photo, b"text", photo]))
        assert [type(result) for result in results] == [Answer, RequestRejected, Answer]

    def test_none_a_wrong_one_and_another_apis_key_do_not(self, guarded: Guarded) -> None:
        with pytest.raises(Unauthorized, match="requires a token"):
            classify(encode(cutouts(1)[0]), url=guarded.url)
        for token in ("wrong", guarded.keys["management"], guarded.keys["API"]):
            with Client(guarded.url, token=token) as client, pytest.raises(Unauthorized, match="rejects the token"):
                list(client.classify_many([b"photo"] * 20))
