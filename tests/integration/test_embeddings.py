"""Embeddings by a real TorchServe and the protocols' own clients, against a hook on the eager network.

gRPC's are in test_grpc.py, those of the quantised network in test_int8.py, those of densenet_client in test_client.py.
"""

import asyncio
import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import requests
import torch
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from numpy.typing import NDArray
from torch import nn

from handler.embedding import WIDTH
from tests.integration.conftest import Server, same
from tests.integration.truth import PHOTOS, TEXTS, eager_embeddings, preprocessed

Array = NDArray[np.float32]
IMAGES = np.array(PHOTOS, dtype=object)


@pytest.fixture(scope="module")
def raw(network: nn.Module) -> Array:
    """Of the photos, by the eager network: (3, 1024)."""
    return np.asarray(eager_embeddings(network, torch.stack([preprocessed(photo) for photo in PHOTOS])))


@pytest.fixture(scope="module")
def unit(raw: Array) -> Array:
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def near(found: Any, expected: Array) -> bool:
    array = np.asarray(found, dtype=np.float32)
    return array.shape == expected.shape and bool(np.abs(array - expected).max() < 1e-4)


def from_base64(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4")


def test_the_photos_differ(unit: Array) -> None:
    assert (unit @ unit.T < 0.999).sum() == 6


class TestOwn:
    """Images as bytes."""

    @pytest.mark.parametrize("norm", [None, "raw", "l2"])
    def test_it_is_an_option_in_a_header_a_form_and_a_query(
        self, server: Server, raw: Array, unit: Array, norm: str | None
    ) -> None:
        expected = unit if norm == "l2" else raw
        options = {"embedding": "base64"} | ({"embedding_norm": norm} if norm else {})
        headers = {f"X-{name.replace('_', '-')}": value for name, value in options.items()}
        invoke = f"{server.service.inference}/models/densenet/invoke"
        octets = {"Content-Type": "application/octet-stream"}
        for photo, vector in zip(PHOTOS, expected, strict=True):
            for answer in (
                server.send(photo, **headers).json(),
                server.post(files={"file": photo}, data=options).json(),
                requests.post(invoke, params=options, data=photo, headers=octets, timeout=60).json(),
            ):
                assert near(from_base64(answer.pop("embedding")), vector)
                assert same(answer, server.send(photo).json())

    def test_numbers_are_those_of_the_base64(self, server: Server, raw: Array) -> None:
        as_numbers, as_text = (
            server.send(PHOTOS[0], **{"X-Embedding": encoding}).json()["embedding"] for encoding in ("float", "base64")
        )
        assert near(as_numbers, raw[0])
        assert np.array_equal(np.array(as_numbers, dtype=np.float32), from_base64(as_text))

    def test_each_image_of_a_form_has_its_own(self, server: Server, raw: Array) -> None:
        parts = {"a": PHOTOS[0], "bad": b"text", "b": PHOTOS[1]}
        results = server.post(files=parts, data={"embedding": "float", "top_k": "1"}).json()["results"]
        assert ["embedding" in result for result in results] == [True, False, True]
        assert near([result["embedding"] for result in results if result["success"]], raw[:2])

    def test_in_a_batch_each_request_gets_what_it_asked_for(self, batching: Server, raw: Array) -> None:
        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(timeout=60) as client:
                chosen: list[dict[str, str]] = [{"X-Embedding": "float"}, {}, {"X-Embedding": "base64"}]
                return await asyncio.gather(
                    *(
                        client.post(batching.url, content=photo, headers=headers)
                        for photo, headers in zip(PHOTOS, chosen, strict=True)
                    )
                )

        first, plain, third = [answer.json() for answer in asyncio.run(ask())]
        assert near(first["embedding"], raw[0])
        assert "embedding" not in plain
        assert near(from_base64(third["embedding"]), raw[2])

    @pytest.mark.parametrize(
        ("headers", "message"),
        [
            ({"X-Embedding": "yes"}, "embedding must be one of none, float and base64, not 'yes'"),
            ({"X-Embedding-Norm": "l1"}, "embedding_norm must be one of raw and l2, not 'l1'"),
        ],
    )
    def test_another_word_is_refused(self, server: Server, headers: dict[str, str], message: str) -> None:
        answer = server.send(PHOTOS[0], **headers)
        assert (answer.status_code, answer.json()["error"]) == (400, {"code": "bad_option", "message": message})

    def test_curl(self, server: Server, raw: Array, tmp_path: Path) -> None:
        (tmp_path / "cat.jpg").write_bytes(PHOTOS[1])
        command = ["curl", "-s", "-T", "cat.jpg", "-H", "X-Embedding: float", server.url]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert near(json.loads(done.stdout)["embedding"], raw[1])


def by_kserve(server: Server, *instances: object, **parameters: object) -> Any:
    async def ask() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
            document = {"instances": list(instances), "parameters": parameters}
            return await client.infer(server.service.inference, document, model_name="densenet")

    return asyncio.run(ask())["predictions"]


class TestKServe:
    """v1 and v2 by KServe's client."""

    def test_instances(self, server: Server, raw: Array, unit: Array) -> None:
        instances = [TEXTS[0], {"b64": TEXTS[1]}, "?", preprocessed(PHOTOS[2]).tolist()]
        one, two, bad, three = by_kserve(server, *instances, embedding="float", top_k=1)
        assert near([row["embedding"] for row in (one, two, three)], raw)
        assert bad.keys() == {"success", "error"}
        (row,) = by_kserve(server, TEXTS[0], embedding="base64", embedding_norm="l2")
        assert near(from_base64(row["embedding"]), unit[0])

    @pytest.mark.parametrize("binary", [True, False])
    def test_tensors(self, server: Server, unit: Array, binary: bool) -> None:
        async def ask() -> Any:
            image = InferInput("image", [3], "BYTES")
            image.set_data_from_numpy(IMAGES, binary_data=True)
            outputs = [RequestedOutput("embedding", parameters={"binary_data": binary})]
            parameters = {"embedding_norm": "l2"}
            request = InferRequest("densenet", [image], parameters=parameters, request_outputs=outputs)
            async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
                return await client.infer(server.service.inference, request, model_name="densenet")

        (output,) = asyncio.run(ask()).outputs
        assert (output.name, output.datatype, output.shape) == ("embedding", "FP32", [3, WIDTH])
        assert near(output.as_numpy(), unit)


class TestTriton:
    """NVIDIA's client."""

    @pytest.mark.parametrize("binary", [True, False])
    def test_the_output_embedding(self, server: Server, raw: Array, binary: bool) -> None:
        image = triton.InferInput("image", [3], "BYTES").set_data_from_numpy(IMAGES)
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("embedding", "indices")]
        with triton.InferenceServerClient(server.service.inference.removeprefix("http://")) as client:
            answer = client.infer("densenet", [image], outputs=outputs)
            plain = client.infer("densenet", [image])
        assert answer.get_output("embedding")["shape"] == [3, WIDTH]
        assert answer.as_numpy("embedding").dtype == np.float32
        assert near(answer.as_numpy("embedding"), raw)
        assert np.array_equal(answer.as_numpy("indices"), plain.as_numpy("indices"))
        assert plain.as_numpy("embedding") is None


class TestHuggingFace:
    """Its client's feature extraction, which takes text: images in base64."""

    @staticmethod
    def by_query(server: Server) -> InferenceClient:
        address = f"{server.service.inference}/models/densenet/invoke?embedding=float"
        return InferenceClient(model=address, token="none", timeout=60)

    @staticmethod
    def by_header(server: Server) -> InferenceClient:
        return InferenceClient(model=server.url, token="none", timeout=60, headers={"X-Embedding": "float"})

    @pytest.mark.parametrize("choose", ["by_query", "by_header"])
    def test_feature_extraction(self, server: Server, raw: Array, unit: Array, choose: str) -> None:
        client: InferenceClient = getattr(self, choose)(server)
        assert near(client.feature_extraction(TEXTS[0]), raw[:1])
        assert near(client.feature_extraction(TEXTS), raw)
        assert near(client.feature_extraction(TEXTS, normalize=True), unit)
        assert client.feature_extraction(TEXTS[0]).dtype == np.float32

    def test_bytes(self, server: Server, raw: Array) -> None:
        headers = {"X-Format": "huggingface", "X-Embedding": "float"}
        assert near(server.send(PHOTOS[0], **headers).json(), raw[:1])

    def test_its_exception_carries_our_words(self, server: Server) -> None:
        with pytest.raises(HfHubHTTPError, match="image 2 of 2: this is not valid base64"):
            self.by_query(server).feature_extraction([TEXTS[0], "?"])


def test_explanations_have_no_embedding(server: Server) -> None:
    answer = requests.post(server.explaining, files={"file": PHOTOS[0]}, data={"embedding": "float"}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_option")
