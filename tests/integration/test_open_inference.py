"""The Open Inference Protocol (v2), by KServe's and Triton's own clients and by plain HTTP."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import requests
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from numpy.typing import NDArray
from torch import nn
from tritonclient.utils import InferenceServerException

from tests.integration.conftest import Server
from tests.integration.truth import PHOTOS, TEXTS, Truth, close, preprocessed, truths

Array = NDArray[Any]
IMAGES: Array = np.array(PHOTOS, dtype=object)
NUMBERS: Array = np.stack([preprocessed(photo).numpy() for photo in PHOTOS])
# One tensor in every way that clients send it: its datatype, the array, and whether as binary data.
WAYS: dict[str, tuple[str, Array, bool]] = {
    "images": ("BYTES", IMAGES, True),
    "images, shape [N, 1]": ("BYTES", IMAGES.reshape(3, 1), True),
    "base64 as binary data": ("BYTES", np.array(TEXTS, dtype=object), True),
    "base64 in JSON": ("BYTES", np.array(TEXTS, dtype=object), False),
    "base64 in JSON, shape [N, 1]": ("BYTES", np.array(TEXTS, dtype=object).reshape(3, 1), False),
    "numbers": ("FP32", NUMBERS, True),
    "numbers in JSON": ("FP32", NUMBERS, False),
}
OUTPUTS = {"probabilities": "FP32", "class_ids": "BYTES", "labels": "BYTES", "indices": "INT64", "recognized": "BOOL"}
DTYPES = {"FP32": np.float32, "BYTES": np.object_, "INT64": np.int64, "BOOL": np.bool_}


@pytest.fixture(scope="module")
def expected(network: nn.Module) -> list[Truth]:
    return truths(network)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    """Triton's."""
    with triton.InferenceServerClient(server.service.inference.removeprefix("http://"), concurrency=4) as client:
        yield client


def tensor(data: Array, datatype: str = "BYTES", binary: bool = True) -> triton.InferInput:
    return triton.InferInput("image", list(data.shape), datatype).set_data_from_numpy(data, binary_data=binary)


def kserve_tensor(data: Array, datatype: str = "BYTES", binary: bool = True) -> InferInput:
    image = InferInput("image", list(data.shape), datatype)
    image.set_data_from_numpy(data, binary_data=binary)
    return image


def text(cell: object) -> str:
    """BYTES are bytes as binary data and text in JSON."""
    return cell.decode() if isinstance(cell, bytes) else str(cell)


def check(arrays: dict[str, Array], expected: list[Truth], count: int = 5) -> None:
    """Values by output name against the truth, one row an image."""
    shapes = dict.fromkeys(OUTPUTS, (len(expected), count)) | {"recognized": (len(expected),)}
    assert {name: array.shape for name, array in arrays.items()} == shapes
    for i, truth in enumerate(expected):
        assert arrays["probabilities"][i] == close(truth.probabilities[:count])
        assert [text(cell) for cell in arrays["class_ids"][i]] == truth.ids[:count]
        assert [text(cell) for cell in arrays["labels"][i]] == truth.labels[:count]
        assert arrays["indices"][i].tolist() == truth.indices[:count]
        assert arrays["recognized"][i] == (truth.probabilities[0] >= 0.2)


class TestTriton:
    """NVIDIA's client."""

    @pytest.mark.parametrize("binary_answer", [True, False])
    @pytest.mark.parametrize("way", WAYS)
    def test_all_outputs_of_three_images_in_their_datatypes(
        self, client: triton.InferenceServerClient, expected: list[Truth], way: str, binary_answer: bool
    ) -> None:
        datatype, data, binary = WAYS[way]
        outputs = [triton.InferRequestedOutput(name, binary_data=binary_answer) for name in OUTPUTS]
        answer = client.infer("densenet", [tensor(data, datatype, binary)], outputs=outputs)
        arrays = {name: answer.as_numpy(name) for name in OUTPUTS}
        check(arrays, expected)
        for name, datatype in OUTPUTS.items():
            assert answer.get_output(name)["datatype"] == datatype
            assert arrays[name].dtype == DTYPES[datatype]

    def test_without_outputs_all_come_as_binary_data(
        self, client: triton.InferenceServerClient, expected: list[Truth]
    ) -> None:
        answer = client.infer("densenet", [tensor(IMAGES)], request_id="42", parameters={"top_k": 2})
        head = answer.get_response()
        assert (head["model_name"], head["model_version"], head["id"]) == ("densenet", "1.0", "42")
        assert [row["name"] for row in head["outputs"]] == list(OUTPUTS)
        assert all("binary_data_size" in row["parameters"] for row in head["outputs"])
        check({name: answer.as_numpy(name) for name in OUTPUTS}, expected, 2)

    def test_only_the_outputs_asked_for(self, client: triton.InferenceServerClient, expected: list[Truth]) -> None:
        outputs = [triton.InferRequestedOutput("labels"), triton.InferRequestedOutput("indices", binary_data=False)]
        answer = client.infer("densenet", [tensor(IMAGES[:1])], outputs=outputs)
        assert [row["name"] for row in answer.get_response()["outputs"]] == ["labels", "indices"]
        assert answer.as_numpy("indices")[0].tolist() == expected[0].indices[:5]
        assert answer.as_numpy("probabilities") is None

    @pytest.mark.parametrize("binary", [True, False])
    def test_class_count_is_tritons_classification(
        self, client: triton.InferenceServerClient, expected: list[Truth], binary: bool
    ) -> None:
        output = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)
        answer = client.infer("densenet", [tensor(IMAGES)], outputs=[output]).as_numpy("probabilities")
        assert answer.shape == (3, 3)
        for row, truth in zip(answer, expected, strict=True):
            values, indices, labels = zip(*(text(cell).split(":") for cell in row), strict=True)
            assert [float(value) for value in values] == close(truth.probabilities[:3])
            assert [int(index) for index in indices] == truth.indices[:3]
            assert list(labels) == truth.labels[:3]

    def test_min_probability_decides_what_is_recognized(
        self, client: triton.InferenceServerClient, expected: list[Truth]
    ) -> None:
        least = sorted(truth.probabilities[0] for truth in expected)[1] + 1e-3
        answer = client.infer("densenet", [tensor(IMAGES)], parameters={"min_probability": least})
        recognized = [truth.probabilities[0] >= least for truth in expected]
        assert answer.as_numpy("recognized").tolist() == recognized
        assert sorted(recognized) == [False, False, True]

    def test_requests_in_flight_together(self, client: triton.InferenceServerClient, expected: list[Truth]) -> None:
        flights = [client.async_infer("densenet", [tensor(IMAGES[i : i + 1])], request_id=str(i)) for i in range(3)]
        for i, flight in enumerate(flights):
            answer = flight.get_result()
            assert answer.get_response()["id"] == str(i)
            check({name: answer.as_numpy(name) for name in OUTPUTS}, expected[i : i + 1])

    @pytest.mark.parametrize(
        ("data", "datatype", "outputs", "status", "message"),
        [
            (np.array([PHOTOS[0], b"\xff\xd8 cut", PHOTOS[1]], object), "BYTES", [], "422", "image 2 of 3: the JPEG"),
            (np.array([b"\x89 no image"], object), "BYTES", [], "415", "image 1 of 1: the image format is unknown"),
            (np.array([b"text"] * 17, object), "BYTES", [], "413", "the request has 17 images; send at most 16"),
            (np.array([[b"a", b"b"]], object), "BYTES", [], "400", "the input is 'BYTES' [1, 2]; it must be BYTES [N]"),
            (NUMBERS[0], "FP32", [], "400", "the input is 'FP32' [3, 224, 224]; it must be BYTES [N]"),
            (np.zeros((1, 224, 224, 3), "u1"), "UINT8", [], "400", "the input is 'UINT8' [1, 224, 224, 3]; it must be"),
            (NUMBERS.astype("f8"), "FP64", [], "400", "the input is 'FP64' [3, 3, 224, 224]; it must be BYTES [N]"),
            (np.full((1, 3, 224, 224), np.nan, "f4"), "FP32", [], "400", "a value is NaN or infinite"),
            (np.full((1, 3, 224, 224), 3e38, "f4"), "FP32", [], "400", "image 1 of 1: a value is NaN or infinite"),
            (
                IMAGES,
                "BYTES",
                [("logits", 0)],
                "400",
                "unknown output 'logits'; valid outputs: probabilities, class_ids",
            ),
            (IMAGES, "BYTES", [("labels", 3)], "400", "only the output probabilities supports classification"),
            (IMAGES, "BYTES", [("probabilities", 1001)], "400", "classification must be a whole number from 1 to 1000"),
        ],
    )
    def test_the_clients_exception_carries_our_words(
        self,
        client: triton.InferenceServerClient,
        data: Array,
        datatype: str,
        outputs: list[tuple[str, int]],
        status: str,
        message: str,
    ) -> None:
        asked = [triton.InferRequestedOutput(name, class_count=count) for name, count in outputs]
        with pytest.raises(InferenceServerException) as raised:
            client.infer("densenet", [tensor(data, datatype)], outputs=asked)
        assert raised.value.status() == status
        assert raised.value.message().startswith(message)

    def test_a_refused_request_in_flight_raises_where_it_is_awaited(self, client: triton.InferenceServerClient) -> None:
        flight = client.async_infer("densenet", [tensor(IMAGES)], parameters={"top_k": "many"})
        with pytest.raises(InferenceServerException, match="top_k must be a whole number"):
            flight.get_result()

    @pytest.mark.parametrize("binary_answer", [True, False])
    def test_an_answer_may_be_asked_for_compressed_and_comes_plain(
        self, client: triton.InferenceServerClient, expected: list[Truth], binary_answer: bool
    ) -> None:
        output = triton.InferRequestedOutput("labels", binary_data=binary_answer)
        answer = client.infer("densenet", [tensor(IMAGES[:1])], outputs=[output], response_compression_algorithm="gzip")
        assert answer.as_numpy("labels").astype(str).tolist() == [expected[0].labels[:5]]


def infer(server: Server, request: InferRequest) -> InferResponse:
    """By KServe's client."""

    async def ask() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            return await client.infer(server.service.inference, request, model_name="densenet")

    return asyncio.run(ask())


class TestKServe:
    """KServe's client."""

    @pytest.mark.parametrize("binary_answer", [True, False])
    @pytest.mark.parametrize("way", WAYS)
    def test_all_outputs_of_three_images(
        self, server: Server, expected: list[Truth], way: str, binary_answer: bool
    ) -> None:
        datatype, data, binary = WAYS[way]
        parameters = {"binary_data_output": binary_answer}
        answer = infer(server, InferRequest("densenet", [kserve_tensor(data, datatype, binary)], parameters=parameters))
        assert {output.name: output.datatype for output in answer.outputs} == OUTPUTS
        check({output.name: output.as_numpy() for output in answer.outputs}, expected)

    def test_plain_lists_for_data(self, server: Server, expected: list[Truth]) -> None:
        for datatype, shape, data in (
            ("BYTES", [3], TEXTS),
            ("FP32", list(NUMBERS.shape), NUMBERS.flatten().tolist()),
            ("FP32", list(NUMBERS.shape), NUMBERS.tolist()),
        ):
            answer = infer(server, InferRequest("densenet", [InferInput("x", shape, datatype, data=data)]))
            check({output.name: output.as_numpy() for output in answer.outputs}, expected)

    def test_the_id_comes_back_and_parameters_are_heeded(self, server: Server, expected: list[Truth]) -> None:
        request = InferRequest("densenet", [kserve_tensor(IMAGES)], request_id="é 42", parameters={"top_k": 1})
        answer = infer(server, request)
        assert (answer.id, answer.model_name) == ("é 42", "densenet")
        check({output.name: output.as_numpy() for output in answer.outputs}, expected, 1)

    def test_requested_outputs_each_written_as_it_says(self, server: Server, expected: list[Truth]) -> None:
        outputs = [RequestedOutput("indices", {"binary_data": True}), RequestedOutput("class_ids")]
        answer = infer(server, InferRequest("densenet", [kserve_tensor(IMAGES)], request_outputs=outputs))
        assert [output.name for output in answer.outputs] == ["indices", "class_ids"]
        assert answer.outputs[0].as_numpy().tolist() == [truth.indices[:5] for truth in expected]
        assert answer.outputs[1].as_numpy().tolist() == [truth.ids[:5] for truth in expected]

    @pytest.mark.parametrize(
        ("data", "parameters", "status", "message"),
        [
            (IMAGES, {"top_k": 1001}, 400, "top_k must be a whole number from 1 to 1000, not 1001"),
            (IMAGES, {"classes": 3}, 400, "unknown parameter 'classes'; valid parameters: top_k, "),
            (np.array([PHOTOS[0], PHOTOS[0][:999]], object), {}, 422, "image 2 of 2: the JPEG file is damaged"),
        ],
    )
    def test_its_exception_carries_our_words(
        self, server: Server, data: Array, parameters: dict[str, object], status: int, message: str
    ) -> None:
        with pytest.raises(httpx.HTTPStatusError, match=message) as raised:
            infer(server, InferRequest("densenet", [kserve_tensor(data)], parameters=parameters))
        assert raised.value.response.status_code == status


def document(**more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [3], "data": TEXTS}], **more}


@pytest.mark.parametrize(
    "route", ["/v2/models/densenet/infer", "/v1/models/densenet:predict", "/predictions/densenet", "/densenet/predict"]
)
def test_plain_json_to_any_address_is_answered_with_flat_data(
    server: Server, expected: list[Truth], route: str
) -> None:
    answer = requests.post(server.service.inference + route, json=document(id="42"), timeout=60)
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    assert (content["model_name"], content["model_version"], content["id"]) == ("densenet", "1.0", "42")
    assert all(isinstance(value, float) for value in content["outputs"][0]["data"])
    check({row["name"]: np.reshape(row["data"], row["shape"]) for row in content["outputs"]}, expected)


def test_classification_as_the_parameter_of_a_request(server: Server, expected: list[Truth]) -> None:
    url = f"{server.service.inference}/v2/models/densenet/infer"
    (output,) = requests.post(url, json=document(parameters={"classification": 1}), timeout=60).json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "BYTES", [3, 1])
    tails = [f":{truth.indices[0]}:{truth.labels[0]}" for truth in expected]
    assert all(cell.endswith(tail) for cell, tail in zip(output["data"], tails, strict=True))


def test_curl(server: Server, expected: list[Truth], tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(PHOTOS[1])
    tensor = r"{\"name\": \"image\", \"datatype\": \"BYTES\", \"shape\": [1], \"data\": [\"$(base64 -w0 cat.jpg)\"]}"
    address = f"{server.service.inference}/v2/models/densenet/infer"
    line = f"""echo "{{\\"inputs\\": [{tensor}]}}" | curl -s -H 'Content-Type: application/json' -d @- {address}"""
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["outputs"]
    check({row["name"]: np.reshape(row["data"], row["shape"]) for row in rows}, expected[1:2])
