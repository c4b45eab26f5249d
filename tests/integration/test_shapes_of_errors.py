"""Refusals over HTTP: whatever is wrong with a request, a 4xx in its protocol's own words, and nobody else is hurt."""

import gzip
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.integration.conftest import Server, same
from tests.integration.truth import PHOTOS, TEXTS

PREDICTIONS, INVOKE = "/predictions/densenet", "/models/densenet/invoke"
V1, V2 = "/v1/models/densenet:predict", "/v2/models/densenet/infer"
HUGGING_FACE = f"{INVOKE}?format=huggingface"
PHOTO, TEXT = PHOTOS[0], TEXTS[0]
ZEROS = 3 * 224 * 224


@pytest.fixture(scope="module", autouse=True)
def _nobody_is_hurt(server: Server) -> Iterator[None]:
    workers, log, before = server.workers(), server.log(), server.send(PHOTO).json()
    yield
    assert same(server.send(PHOTO).json(), before)
    assert server.workers() == workers
    written = server.log()[len(log) :]
    assert "unexpected failure" not in written
    assert "Traceback" not in written


def send(server: Server, route: str, body: object, **headers: str) -> requests.Response:
    """A body as it is, or JSON of it; NaN, Infinity and huge numbers as Python writes them."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | headers
    return requests.post(server.service.inference + route, data=content, headers=headers, timeout=60)


def words(response: requests.Response) -> tuple[int, str]:
    """Status and code of a refusal that the protocol's clients understand: its error is a text."""
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert content.keys() == {"error", "code"}, content
    assert isinstance(content["error"], str)
    assert len(response.content) < 1000
    return response.status_code, content["code"]


def our_words(response: requests.Response) -> tuple[int, str]:
    """The same of a refusal in our own shape."""
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert content.keys() == {"success", "error"}, content
    assert content["success"] is False
    assert content["error"].keys() == {"code", "message"}
    assert len(response.content) < 1000
    return response.status_code, content["error"]["code"]


NO_JSON = {
    "nothing": b"",
    "cut": b'{"instances": [{"b64": "QUJD"}',
    "cut in a word": b'{"instances": tru',
    "two documents": b"{}{}",
    "no utf-8": b'{"instances": ["\xff"]}',
    "a comma too many": b'{"instances": [],}',
    "100,000 brackets": b"[" * 100_000,
    "100,000 braces": b'{"a":' * 100_000,
    "a number of 5000 digits": b'{"instances": [' + b"9" * 5000 + b"]}",
}
NO_PROTOCOL: list[object] = [
    None,
    7,
    0.5,
    True,
    "text",
    [],
    {},
    [[]],
    [{"instances": []}],
    {"data": [1]},
    {"Inputs": []},
]
NO_TOP_K: list[object] = [0, -1, 1001, 2.5, True, "x", "", [], {}, float("nan"), float("inf"), 10**400]
NO_SHARE: list[object] = [-0.1, 1.1, True, "x", "nan", [], {}, float("nan"), float("inf"), 10**400]
PARAMETERS: list[tuple[object, str]] = [
    ([], "bad_json"),
    ("top_k=3", "bad_json"),
    (7, "bad_json"),
    ({"topk": 3}, "bad_option"),
    ({"x" * 5000: 3}, "bad_option"),
    *(({"top_k": value}, "bad_option") for value in NO_TOP_K),
]


class TestInstances:
    """KServe's v1 protocol, and the same JSON at our own address."""

    @pytest.mark.parametrize("body", NO_JSON)
    def test_no_json(self, server: Server, body: str) -> None:
        assert words(send(server, V1, NO_JSON[body])) == (400, "bad_json")
        assert our_words(send(server, PREDICTIONS, NO_JSON[body])) == (400, "bad_json")

    @pytest.mark.parametrize("document", NO_PROTOCOL, ids=repr)
    def test_json_of_no_protocol(self, server: Server, document: object) -> None:
        assert words(send(server, V1, document)) == (400, "bad_json")
        assert our_words(send(server, PREDICTIONS, document)) == (400, "bad_json")

    @pytest.mark.parametrize(
        "instances", [[], None, {}, "x", 7, True, {"b64": TEXT}], ids=lambda value: repr(value)[:9]
    )
    def test_no_list_of_instances(self, server: Server, instances: object) -> None:
        assert words(send(server, V1, {"instances": instances})) == (400, "bad_json")
        assert our_words(send(server, PREDICTIONS, {"instances": instances})) == (400, "bad_json")

    @pytest.mark.parametrize(
        ("parameters", "code"),
        [*PARAMETERS, *(({"min_probability": value}, "bad_option") for value in NO_SHARE)],
        ids=lambda value: repr(value)[:40],
    )
    def test_bad_parameters(self, server: Server, parameters: object, code: str) -> None:
        document = {"instances": [TEXT], "parameters": parameters}
        assert words(send(server, V1, document)) == (400, code)
        assert our_words(send(server, PREDICTIONS, document)) == (400, code)

    @pytest.mark.parametrize(("header", "value"), [("X-Top-K", "0"), ("X-Min-Probability", "2"), ("X-Format", "xml")])
    def test_bad_options_beside_the_body(self, server: Server, header: str, value: str) -> None:
        assert words(send(server, V1, {"instances": [TEXT]}, **{header: value})) == (400, "bad_option")
        assert our_words(send(server, PREDICTIONS, {"instances": [TEXT]}, **{header: value})) == (400, "bad_option")

    @pytest.mark.parametrize("count", [17, 100_000])
    def test_too_many(self, server: Server, count: int) -> None:
        assert words(send(server, V1, {"instances": ["QUJD"] * count})) == (413, "too_many_images")
        assert our_words(send(server, PREDICTIONS, {"instances": ["QUJD"] * count})) == (413, "too_many_images")

    @pytest.mark.parametrize(
        ("instance", "code"),
        [
            *((value, "bad_json") for value in (None, 7, True, {}, {"b64": 7}, {"b64": {}}, {"x": TEXT})),
            ({"b64": TEXT, "size": "1"}, "bad_json"),
            ("", "no_image"),
            ("QUJ", "bad_base64"),
            (TEXT[:-1] + "?", "bad_base64"),
            ("aGVsbG8sIHdvcmxk", "not_an_image"),
            (TEXT[:4000], "broken_image"),
            *((value, "bad_tensor") for value in ([], [[]], [1, 2, 3], [TEXT], [None] * ZEROS, [True, [1]])),
            ([[[0] * 224] * 224] * 2 + [[[0] * 224] * 223 + [[0] * 223]], "bad_tensor"),
            ([[[0] * 224] * 224], "bad_tensor"),
            ([[[[0] * 224] * 224] * 3], "bad_tensor"),
            *(
                ([value] + [0] * (ZEROS - 1), "bad_tensor")
                for value in (float("nan"), float("inf"), 1e39, 10**400, "0")
            ),
            ([3e38] * ZEROS, "bad_tensor"),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_a_bad_instance_is_an_error_in_its_place(self, server: Server, instance: object, code: str) -> None:
        for route in (V1, PREDICTIONS):
            answer = send(server, route, {"instances": [TEXT, instance]})
            good, bad = answer.json()["predictions"]
            assert (answer.status_code, good["success"], bad["success"]) == (200, True, False)
            assert bad["error"]["code"] == code


def tensor(datatype: object = "BYTES", shape: object = (1,), data: object = (TEXT,), **more: object) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data} | more]}


def numbers(*first: object, count: int = ZEROS) -> dict[str, Any]:
    """A preprocessed image that begins with these and goes on with zeros."""
    return tensor("FP32", [1, 3, 224, 224], [*first, *[0] * (count - len(first))])


def outputs(*asked: object) -> dict[str, Any]:
    return tensor() | {"outputs": asked}


BAD_REQUESTS: list[tuple[object, int, str]] = [
    (b'{"inputs": [', 400, "bad_json"),
    (b'{"inputs": [{"name": "x", "shape": [1', 400, "bad_json"),
    *(({"inputs": value}, 400, "bad_json") for value in ([], [None], ["x"], [[]], tensor()["inputs"] * 2)),
    *(({"inputs": value}, 400, "bad_json") for value in (None, 7, True, {}, tensor()["inputs"][0])),
    *((tensor() | {"id": value}, 400, "bad_json") for value in (7, True, [], {}, 0.5)),
    *((tensor() | {"parameters": parameters}, 400, code) for parameters, code in PARAMETERS),
    *((tensor() | {"parameters": {"min_probability": value}}, 400, "bad_option") for value in NO_SHARE),
    *((tensor() | {"parameters": {"classification": value}}, 400, "bad_option") for value in NO_TOP_K),
    *(
        (tensor(value), 400, "bad_tensor")
        for value in (None, 7, [], {}, "", "bytes", "UINT8", "FP16", "FP64", "STRING")
    ),
    *((tensor(shape=value), 400, "bad_tensor") for value in (None, "1", {}, [], [[1]], ["1"], [None], [1, 2])),
    *((tensor(shape=[value]), 400, "bad_tensor") for value in (-2, True, 1.5, float("nan"), float("inf"))),
    (tensor(shape=[0], data=[]), 400, "no_image"),
    (tensor(shape=[17], data=["QUJD"] * 17), 413, "too_many_images"),
    (tensor(shape=[10**300]), 400, "bad_tensor"),
    *((tensor(data=value), 400, "bad_json") for value in (None, 7, {})),
    (tensor(data="x"), 400, "bad_base64"),
    *((tensor(data=value), 400, "bad_tensor") for value in ([], [TEXT, TEXT], ["QUJD"] * 100_000)),
    *((tensor(data=value), 400, "bad_json") for value in ([None], [7], [{}], [[]], [["a", "b"]])),
    (tensor(data=["?"]), 400, "bad_base64"),
    (tensor(data=[""]), 400, "no_image"),
    (tensor(data=["aGVsbG8sIHdvcmxk"]), 415, "not_an_image"),
    (tensor(data=[TEXT[:4000]]), 422, "broken_image"),
    *((numbers(value), 400, "bad_tensor") for value in (float("nan"), float("inf"), 1e39, 10**400, "0", None, [], {})),
    (numbers(*[3e38] * ZEROS), 400, "bad_tensor"),
    (numbers(count=ZEROS - 1), 400, "bad_tensor"),
    (numbers(count=2 * ZEROS), 400, "bad_tensor"),
    (tensor("FP32", [1, 3, 224, 224], [[[[0] * 224] * 224] * 2 + [[[0] * 224]]]), 400, "bad_tensor"),
    (tensor("FP32", [3, 224, 224], [[[0] * 224] * 224] * 3), 400, "bad_tensor"),
    (tensor("FP32", [1, 224, 224, 3], [0] * ZEROS), 400, "bad_tensor"),
    *((tensor() | {"outputs": value}, 400, "bad_json") for value in ("labels", 7, {}, [{"name": "labels"}] * 8)),
    *((outputs(value), 400, "bad_option") for value in (None, "labels", [], {}, {"name": 7}, {"name": "logits"})),
    (outputs({"name": "labels", "parameters": {"classification": 3}}), 400, "bad_option"),
    (outputs({"name": "probabilities", "parameters": {"classification": 0}}), 400, "bad_option"),
]


class TestTensors:
    """The Open Inference Protocol, refused alike at every address."""

    @pytest.mark.parametrize(("body", "status", "code"), BAD_REQUESTS, ids=lambda value: repr(value)[:60])
    def test_a_request_that_cannot_be_answered(self, server: Server, body: object, status: int, code: str) -> None:
        assert words(send(server, V2, body)) == (status, code)
        assert words(send(server, PREDICTIONS, body)) == (status, code)

    @pytest.mark.parametrize("place", [1, 2, 3])
    def test_a_bad_element_fails_its_request_and_is_named(self, server: Server, place: int) -> None:
        data = [*TEXTS[: place - 1], TEXT[:4000], *TEXTS[place:]]
        answer = send(server, V2, tensor(shape=[3], data=data))
        assert words(answer) == (422, "broken_image")
        assert answer.json()["error"].startswith(f"image {place} of 3: ")

    @pytest.mark.parametrize("size", [-1, 0, True, "7", 7.0, len(PHOTO) + 3, len(PHOTO) + 5, 10**30, [], {}])
    def test_a_binary_data_size_that_is_none(self, server: Server, size: object) -> None:
        content = tensor(parameters={"binary_data_size": size})
        text, blob = json.dumps(content).encode(), struct.pack("<I", len(PHOTO)) + PHOTO
        assert words(send(server, V2, text + blob, **{"Inference-Header-Content-Length": str(len(text))})) == (
            400,
            "bad_tensor",
        )

    @pytest.mark.parametrize("length", ["", "-1", "0", "x", "1e2", "10", "¹", "9" * 9, "9" * 99])
    def test_a_header_that_is_not_the_length_of_the_json(self, server: Server, length: str) -> None:
        blob = struct.pack("<I", len(PHOTO)) + PHOTO
        text = json.dumps(tensor(parameters={"binary_data_size": len(blob)})).encode()
        headers = {"Inference-Header-Content-Length": length, "Content-Type": "application/octet-stream"}
        assert words(send(server, V2, text + blob, **headers)) == (400, "bad_json")

    @pytest.mark.parametrize("blob", [b"\1", b"\xff\xff\xff\xff", b"\1\0\0\0", b"\1\0\0\0a\1\0\0\0b", bytes(1_000_000)])
    def test_binary_elements_that_do_not_add_up(self, server: Server, blob: bytes) -> None:
        text = json.dumps(tensor(parameters={"binary_data_size": len(blob)})).encode()
        answer = send(server, V2, text + blob, **{"Inference-Header-Content-Length": str(len(text))})
        assert words(answer) == (400, "bad_tensor")

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            (b"{", 415, "bad_encoding"),
            (gzip.compress(b'{"inputs": [', mtime=0), 400, "bad_json"),
            (gzip.compress(bytes(10 * 2**20 + 1), mtime=0), 413, "body_too_large"),
        ],
    )
    def test_a_compressed_body(self, server: Server, body: bytes, status: int, code: str) -> None:
        assert words(send(server, V2, body, **{"Content-Encoding": "gzip"})) == (status, code)

    def test_a_shape_of_four_million_sides_is_not_repeated_to_the_client(self, server: Server) -> None:
        shape = b",".join([b"0"] * 4_000_000)
        body = b'{"inputs": [{"name": "x", "datatype": "BYTES", "data": [], "shape": [' + shape + b"]}]}"
        assert words(send(server, V2, body)) == (400, "bad_tensor")


OCTETS = {"Content-Type": "application/octet-stream"}


class TestHuggingFace:
    """Its JSON at every address, and bytes where the format is asked for."""

    @pytest.mark.parametrize(
        ("document", "status", "code"),
        [
            *(({"inputs": value}, 400, "bad_json") for value in (None, 7, 0.5, True, {}, {"b64": TEXT})),
            ({"inputs": ""}, 400, "no_image"),
            ({"inputs": "?"}, 400, "bad_base64"),
            ({"inputs": "https://example.com/cat.jpg"}, 400, "bad_base64"),
            ({"inputs": "aGVsbG8sIHdvcmxk"}, 415, "not_an_image"),
            ({"inputs": TEXT[:4000]}, 422, "broken_image"),
            *(({"inputs": TEXT, "parameters": parameters}, 400, code) for parameters, code in PARAMETERS),
            ({"inputs": TEXT, "parameters": {"min_probability": 0.5}}, 400, "bad_option"),
            ({"inputs": TEXT, "parameters": {"function_to_apply": "relu"}}, 400, "bad_option"),
            ({"inputs": TEXT, "parameters": {"function_to_apply": ["none"]}}, 400, "bad_option"),
            ({"inputs": TEXT, "parameters": {"function_to_apply": 1}}, 400, "bad_option"),
            ({"inputs": TEXT, "parameters": {"format": "xml"}}, 400, "bad_option"),
            (b'{"inputs": "QUJD', 400, "bad_json"),
        ],
        ids=lambda value: repr(value)[:60],
    )
    def test_json(self, server: Server, document: object, status: int, code: str) -> None:
        for route in (PREDICTIONS, V2, HUGGING_FACE):
            assert words(send(server, route, document)) == (status, code)

    @pytest.mark.parametrize(
        ("body", "headers", "status", "code"),
        [
            (b"", {}, 400, "no_image"),
            (b"text", {}, 415, "not_an_image"),
            (PHOTO[:4000], {}, 422, "broken_image"),
            (PHOTO, {"X-Top-K": "0"}, 400, "bad_option"),
            (PHOTO, {"X-Min-Probability": "0.5"}, 400, "bad_option"),
            (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 400, "bad_form"),
        ],
    )
    @pytest.mark.parametrize(("route", "switch"), [(HUGGING_FACE, {}), (PREDICTIONS, {"X-Format": "huggingface"})])
    def test_bytes(
        self,
        server: Server,
        route: str,
        switch: dict[str, str],
        body: bytes,
        headers: dict[str, str],
        status: int,
        code: str,
    ) -> None:
        assert words(send(server, route, body, **OCTETS | switch | headers)) == (status, code)

    @pytest.mark.parametrize("name", ["xml", "", "HuggingFace", "x" * 2000])
    def test_an_unknown_format(self, server: Server, name: str) -> None:
        assert words(send(server, PREDICTIONS, PHOTO, **OCTETS, **{"X-Format": name})) == (400, "bad_option")
        assert words(send(server, f"{INVOKE}?format={name}", PHOTO, **OCTETS)) == (400, "bad_option")

    def test_two_images_in_a_form(self, server: Server) -> None:
        answer = server.post(files={"a": PHOTO, "b": PHOTO}, data={"format": "huggingface"})
        assert words(answer) == (413, "too_many_images")


class TestImages:
    """Bytes at any address are answered in our own shape, and refused in it."""

    @pytest.mark.parametrize("route", [PREDICTIONS, V1, V2, INVOKE])
    @pytest.mark.parametrize(
        ("body", "headers", "status", "code"),
        [
            (b"text", {}, 415, "not_an_image"),
            (PHOTO[:4000], {}, 422, "broken_image"),
            (PHOTO, {"X-Top-K": "0"}, 400, "bad_option"),
        ],
    )
    def test_a_bad_image(
        self, server: Server, route: str, body: bytes, headers: dict[str, str], status: int, code: str
    ) -> None:
        assert our_words(send(server, route, body, **OCTETS | headers)) == (status, code)
