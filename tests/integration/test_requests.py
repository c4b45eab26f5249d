"""Requests as clients and the field's own samples send them, to the service and to the gateway before it."""

import asyncio
import base64
import gzip
import json
import subprocess
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import pytest
import requests
import tritonclient.http as triton
import urllib3
from huggingface_hub import InferenceClient

from tests.integration.conftest import Server, same
from tests.integration.gateways import HAS_NGINX, Opener, open_gateway, standing_in
from tests.integration.truth import PHOTOS, TEXTS

__all__ = ["open_gateway"]

PHOTO, TEXT = PHOTOS[0], TEXTS[0]
PREDICTIONS, INVOKE = "/predictions/densenet", "/models/densenet/invoke"
V1, V1_EXPLAIN, V2 = "/v1/models/densenet:predict", "/v1/models/densenet:explain", "/v2/models/densenet/infer"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", autouse=True)
def _nobody_is_hurt(server: Server) -> Iterator[None]:
    workers, log = server.workers(), server.log()
    yield
    assert server.workers() == workers
    assert "unexpected failure" not in server.log()[len(log) :]


@pytest.fixture(scope="module", params=["service", "gateway"])
def base(request: pytest.FixtureRequest, server: Server) -> str:
    """The address of the service, and of a gateway before it that wants no keys."""
    if request.param == "service":
        return server.service.inference
    if not HAS_NGINX:
        pytest.skip("nginx is not installed")
    opener: Opener = request.getfixturevalue("open_gateway")
    options = ("--no-keys", "--rate", "1000", "--burst", "1000")
    return opener(*options, upstreams=(server.service.inference,), tls=False).base


@pytest.fixture(scope="module")
def expected(server: Server) -> dict[str, Any]:
    answer: dict[str, Any] = server.send(PHOTO).json()
    return answer


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "cat.jpg"
    path.write_bytes(PHOTO)
    return path


def error(response: Any) -> tuple[int, str, str]:
    """Status, code and message of a refusal in any protocol's shape."""
    content = response.json()
    detail = content["error"]
    if isinstance(detail, dict):
        return response.status_code, detail["code"], detail["message"]
    return response.status_code, content["code"], detail


def curl(url: str, photo: Path, *arguments: str) -> Any:
    command = ["curl", "-s", *(argument.replace("PHOTO", photo.name) for argument in arguments), url]
    return json.loads(subprocess.run(command, cwd=photo.parent, capture_output=True, check=True).stdout)


def with_aiohttp(url: str, **request: Any) -> Any:
    async def post() -> Any:
        async with aiohttp.ClientSession() as session, session.post(url, **request) as response:
            return await response.json()

    return asyncio.run(post())


def aiohttp_form(photo: Path) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("file", photo.read_bytes(), filename="고양이.jpg", content_type="image/jpeg")
    form.add_field("top_k", "5", content_type="text/plain")
    return form


Client = Callable[[str, Path], Any]
OCTETS = {"Content-Type": "application/octet-stream"}
CLIENTS: dict[str, Client] = {
    "curl -T": lambda url, photo: curl(url, photo, "-T", "PHOTO"),
    "curl -T --compressed": lambda url, photo: curl(url, photo, "--compressed", "-T", "PHOTO"),
    "curl -F": lambda url, photo: curl(url, photo, "-F", "image=@PHOTO", "-F", "top_k=5"),
    "curl -F with a type": lambda url, photo: curl(url, photo, "-F", "image=@PHOTO;type=image/jpeg;filename=a;b.jpg"),
    "curl --data-binary": lambda url, photo: curl(
        url, photo, "--data-binary", "@PHOTO", "-H", "Content-Type: image/jpeg"
    ),
    "curl, chunked": lambda url, photo: curl(url, photo, "-T", "PHOTO", "-H", "Transfer-Encoding: chunked"),
    "requests, data": lambda url, photo: requests.post(url, data=photo.read_bytes(), timeout=60).json(),
    "requests, stream": lambda url, photo: requests.post(url, data=iter([photo.read_bytes()]), timeout=60).json(),
    "requests, files": lambda url, photo: requests.post(
        url, files={"file": (photo.name, photo.read_bytes())}, timeout=60
    ).json(),
    "httpx, content": lambda url, photo: httpx.post(url, content=photo.read_bytes(), timeout=60).json(),
    "httpx, files": lambda url, photo: httpx.post(
        url, files={"file": (photo.name, photo.read_bytes())}, data={"top_k": 5}, timeout=60
    ).json(),
    "aiohttp, data": lambda url, photo: with_aiohttp(url, data=photo.read_bytes()),
    "aiohttp, form": lambda url, photo: with_aiohttp(url, data=aiohttp_form(photo)),
    "aiohttp, gzip": lambda url, photo: with_aiohttp(url, data=photo.read_bytes(), compress="gzip"),
    "aiohttp, deflate": lambda url, photo: with_aiohttp(url, data=photo.read_bytes(), compress="deflate"),
    "urllib3, body": lambda url, photo: urllib3.request("POST", url, body=photo.read_bytes()).json(),
    "urllib3, fields": lambda url, photo: urllib3.request(
        "POST", url, fields={"file": ("cat.jpg", photo.read_bytes(), "image/jpeg"), "top_k": "5"}
    ).json(),
    "urllib": lambda url, photo: json.load(
        urllib.request.urlopen(urllib.request.Request(url, photo.read_bytes(), OCTETS), timeout=60)
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_answered(base: str, photo: Path, expected: dict[str, Any], client: str) -> None:
    assert same(CLIENTS[client](base + PREDICTIONS, photo), expected)


def part(*lines: str, content: bytes = PHOTO) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode() + content


FILE = 'Content-Disposition: form-data; name="file"; filename="cat.jpg"'
TOP_K = 'Content-Disposition: form-data; name="top_k"'
NAMED_FILE = 'Content-Disposition: form-data; name="file"'
KOREAN = "고" * 76 + ".jpg"
ENCODED = base64.b64encode(KOREAN.encode()).decode(), "%EA%B3%A0" * 76 + ".jpg"
# Forms as these write them: of the photo, and of top_k as text where they send that in a way of their own.
FORMS: dict[str, list[bytes]] = {
    ".NET": [
        part("Content-Type: image/jpeg", FILE.replace('"', "") + "; filename*=utf-8''cat.jpg"),
        part("Content-Type: text/plain; charset=utf-8", TOP_K.replace('"', ""), content=b"5"),
    ],
    ".NET, a long name": [
        part(f"{NAMED_FILE}; filename=\"=?utf-8?B?{ENCODED[0]}?=\"; filename*=utf-8''{ENCODED[1]}"),
    ],
    "RFC 2231": [part(f"{NAMED_FILE}; filename*=utf-8''{ENCODED[1]}")],
    "a kilobyte of headers": [part(FILE, "Content-Type: image/jpeg", f"X-Trace: {'x' * 1024}")],
    "16 kilobytes of headers": [part(FILE, "Content-Type: image/jpeg", f"X-Trace: {'x' * 16384}")],
    "Apache HttpClient": [
        part(FILE, "Content-Type: application/octet-stream", "Content-Transfer-Encoding: binary"),
        part(TOP_K, "Content-Type: text/plain; charset=ISO-8859-1", "Content-Transfer-Encoding: 8bit", content=b"5"),
    ],
    "OkHttp": [
        part(FILE, "Content-Type: image/jpeg", f"Content-Length: {len(PHOTO)}"),
        part(TOP_K, "Content-Length: 1", content=b"5"),
    ],
    "Spring": [
        part(TOP_K, "Content-Type: text/plain;charset=UTF-8", "Content-Length: 1", content=b"5"),
        part(FILE, "Content-Type: image/jpeg", f"Content-Length: {len(PHOTO)}"),
    ],
    "Go": [part(FILE, "Content-Type: application/octet-stream"), part(TOP_K, content=b"5")],
    "Dart": [part(FILE.replace("C", "c"), "content-type: application/octet-stream")],
    "Ruby": [part(FILE, f"Content-Length: {len(PHOTO)}", "Content-Type: ", "Content-Transfer-Encoding: binary")],
    "Guzzle": [part(FILE, f"Content-Length: {len(PHOTO)}", "Content-Type: image/jpeg")],
    "form-data, a buffer": [part(NAMED_FILE, "Content-Type: application/octet-stream")],
    "undici": [part(FILE.replace("cat.jpg", "blob"), "Content-Type: application/octet-stream")],
    "Postman": [part(FILE, "Content-Type: image/jpeg"), part(TOP_K, content=b"5")],
    "Django": [part('Content-Disposition: form-data; name="csrfmiddlewaretoken"', content=b"a" * 64), part(FILE)],
    "Rails": [
        part('Content-Disposition: form-data; name="utf8"', content="✓".encode()),
        part('Content-Disposition: form-data; name="authenticity_token"', content=b"abc=="),
        part(NAMED_FILE, content=b""),
        part(FILE, "Content-Type: image/jpeg"),
        part('Content-Disposition: form-data; name="commit"', content=b"Upload"),
    ],
    "PHP": [part('Content-Disposition: form-data; name="MAX_FILE_SIZE"', content=b"30000"), part(FILE)],
    "FilePond": [part(NAMED_FILE, content=b"{}"), part(FILE)],
    "an upper-case field of ASP.NET": [
        part('Content-Disposition: form-data; name="__RequestVerificationToken"', content=b"CfDJ8"),
        part(FILE),
    ],
}
CONTENT_TYPES = {
    ".NET": 'multipart/form-data; boundary="{}"',
    "Spring": "multipart/form-data;charset=UTF-8;boundary={}",
    "Apache HttpClient": "multipart/form-data; boundary={}; charset=ISO-8859-1",
}


def form(parts: list[bytes], boundary: str = "----WebKitFormBoundary7MA4YWxkTrZu0gW") -> bytes:
    opening = f"--{boundary}\r\n".encode()
    return b"".join(opening + content + b"\r\n" for content in parts) + f"--{boundary}--\r\n".encode()


def send_form(
    url: str, parts: list[bytes], content_type: str = "multipart/form-data; boundary={}"
) -> requests.Response:
    boundary = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
    headers = {"Content-Type": content_type.format(boundary)}
    return requests.post(url, data=form(parts, boundary), headers=headers, timeout=60)


@pytest.mark.parametrize("client", FORMS)
def test_a_form_is_read_as_the_client_frames_it(base: str, expected: dict[str, Any], client: str) -> None:
    content_type = CONTENT_TYPES.get(client, "multipart/form-data; boundary={}")
    response = send_form(base + PREDICTIONS, FORMS[client], content_type)
    assert same(response.json(), expected)
    assert response.headers["X-Images-Read"] == "1"


@pytest.mark.parametrize("name", ["files[]", "top_k"])
def test_images_under_one_name_are_all_answered_in_their_order(base: str, server: Server, name: str) -> None:
    for contents in ([PHOTO, PHOTOS[1], PHOTO], [gif(0), gif(1)]):
        files = [(name, (f"{i}.jpg", content, "image/jpeg")) for i, content in enumerate(contents)]
        response = requests.post(base + PREDICTIONS, files=files, timeout=60)
        results = response.json()["results"]
        assert response.headers["X-Images-Read"] == str(len(contents))
        assert [result.pop("name") for result in results] == [name] * len(contents)
        for content in set(contents):
            alone = server.send(content).json()
            assert all(same(results[i], alone) for i, other in enumerate(contents) if other == content)


def gif(color: int) -> bytes:
    """A picture of 35 bytes: what is lost of such a part does not show in the length of a form."""
    return b"GIF89a\1\0\1\0\x80\0\0" + bytes([255 * color] * 3 + [0] * 3) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


def test_torchserves_own_sample_of_two_images_is_answered(base: str, photo: Path) -> None:
    """docs/inference_api.md of pytorch/serve."""
    answer = curl(base + PREDICTIONS, photo, "-F", "data=@PHOTO", "-F", "data=@PHOTO")
    assert [result["success"] for result in answer["results"]] == [True, True]


@pytest.mark.parametrize("option", ["top_k", "min_probability", "format"])
def test_an_option_that_is_sent_twice_is_refused(base: str, option: str) -> None:
    fields = [(option, (None, "1"))] * 2
    response = requests.post(base + PREDICTIONS, files=[("file", PHOTO), *fields], timeout=60)
    assert error(response)[:2] == (400, "repeated_part")


def test_a_forms_option_counts_beside_the_same_one_in_the_query(base: str) -> None:
    answer = requests.post(f"{base}{INVOKE}?top_k=1&top_k=4", files={"file": PHOTO}, data={"top_k": 2}, timeout=60)
    assert len(answer.json()["predictions"]) == 2


def test_a_large_part_that_torchserve_drops_is_missed_and_a_small_one_is_counted(base: str) -> None:
    """A part without the boundary behind it."""
    cut = form([part(FILE), part(FILE.replace('"file"', '"second"'), content=bytes(100_000))])[:-100]
    headers = {"Content-Type": "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW"}
    status, code, message = error(requests.post(base + PREDICTIONS, data=cut, headers=headers, timeout=60))
    assert (status, code) == (400, "bad_form")
    assert "only 1 part(s) of the form are complete" in message
    small = form([part(FILE), part(FILE.replace('"file"', '"second"'), content=gif(0))])[:-45]
    response = requests.post(base + PREDICTIONS, data=small, headers=headers, timeout=60)
    assert (response.status_code, response.headers["X-Images-Read"]) == (200, "1")


@pytest.mark.parametrize(
    ("headers", "body", "code", "message"),
    [
        (
            {"Content-Type": "multipart/mixed; boundary=x"},
            form([part(FILE)], "x"),
            "bad_form",
            "is not multipart/form-",
        ),
        (
            {"Content-Type": "multipart/related; boundary=x"},
            b"--x--",
            "bad_form",
            "'multipart/related' is not multipart",
        ),
        ({"Content-Type": "multipart/form-data; Boundary=x"}, form([part(FILE)], "x"), "bad_form", "no boundary=…"),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b"text\r\n" + form([part(FILE)], "x"),
            "bad_form",
            "begin",
        ),
        (OCTETS, b"https://example.com/cat.jpg", "not_an_image", "this is a URL, and URLs are not fetched"),
        (JSON, b'{"instances": [{"b64": "QUJD"}', "bad_json", "not valid JSON"),
        (JSON, b'{"image_url": "https://example.com/cat.jpg"}', "bad_json", "not {'image_url': 'https://"),
        (JSON, b'{"inputs": "https://example.com/cat.jpg"}', "bad_base64", "this is a URL, and URLs are not fetched"),
    ],
)
def test_a_message_says_what_was_wrong_in_the_callers_terms(
    server: Server, headers: dict[str, str], body: bytes, code: str, message: str
) -> None:
    answer = error(server.post(data=body, headers=headers))
    assert answer[1] == code
    assert message in answer[2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"note": "hello"}, "the field 'note' contains text, not a file"),
        ({"url": "https://example.com/cat.jpg"}, "the field 'url' contains a URL, and URLs are not fetched"),
        ({"topk": "3"}, "the field 'topk' contains text, not a file"),
    ],
)
def test_other_text_in_a_form_is_still_refused(server: Server, fields: dict[str, str], message: str) -> None:
    status, code, said = error(server.post(files={"file": PHOTO}, data=fields))
    assert (status, code) == (400, "unknown_field")
    assert message in said
    assert error(server.post(files={"submit": (None, "Upload")}))[:2] == (400, "no_image")


INSTANCE = {"data": TEXT, "target": 7}
TENSOR = {"name": "312a4eb0-0ca7-4803-a101-a6d2c18486fe", "datatype": "BYTES"}
# The samples of the projects for image classifiers, with our address and photo: path in the repository, what is sent.
SAMPLES: dict[str, tuple[str, Any]] = {
    "kserve docs/samples/v1beta1/torchserve/v1/mnist.json": (V1, {"instances": [INSTANCE]}),
    "kserve test/e2e/data/torchserve_batch_input.json": (V1, {"instances": [INSTANCE] * 4}),
    "kserve docs/samples/v1beta1/torchserve/v1/imgconv/input.json": (V1, {"instances": [{"data": TEXT}]}),
    "kserve docs/samples/v1beta1/tensorflow/input.json": (
        V1,
        {"instances": [{"image_bytes": {"b64": TEXT}, "key": "   1"}]},
    ),
    "kserve docs/samples/v1beta1/custom/custom_model/input.json": (V1, {"instances": [{"image": {"b64": TEXT}}]}),
    "tensorflow/serving example/resnet_client.py": (V1, {"instances": [{"b64": TEXT}]}),
    "kserve docs/samples/v1beta1/torchserve/v2/bytes_conv/mnist_v2_bytes.json": (
        V2,
        {"inputs": [TENSOR | {"shape": -1, "data": TEXT}]},
    ),
    "pytorch/serve kubernetes/kserve/kf_request_json/v2/mnist/mnist_v2_bytes.json": (
        V2,
        {"id": "d3b15cad", "inputs": [TENSOR | {"shape": [-1], "data": [TEXT]}]},
    ),
    "pytorch/serve kubernetes/kserve/kf_request_json/v2/mnist/tobytes.py": (
        V2,
        {"inputs": [TENSOR | {"shape": [-1], "data": list(TEXT)}]},
    ),
    "kserve test/e2e/data/custom_model_input_v2.json": (V2, {"inputs": [TENSOR | {"shape": [1], "data": [TEXT]}]}),
    "huggingface image-classification": (INVOKE, {"inputs": TEXT, "parameters": {"top_k": 5}}),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_is_answered_as_it_is(base: str, expected: dict[str, Any], sample: str) -> None:
    route, document = SAMPLES[sample]
    best = expected["predictions"][0]
    answer = requests.post(base + route, data=json.dumps(document).encode(), headers=JSON, timeout=60).json()
    match answer:
        case {"predictions": results}:
            assert len(results) == len(document["instances"])
            assert all(same(result, expected) for result in results)
        case {"outputs": outputs}:
            assert {row["name"]: row["data"][0] for row in outputs}["class_ids"] == best["class_id"]
        case [first, *_]:
            assert first["label"] == best["label"]
        case _:
            raise AssertionError(answer)


def test_the_sample_explains_the_class_that_it_names(base: str) -> None:
    """kserve docs/samples/v1beta1/torchserve/v1: mnist.json at :explain."""
    answer = requests.post(base + V1_EXPLAIN, json={"instances": [INSTANCE]}, timeout=60).json()
    (by_parameter,) = requests.post(
        base + V1_EXPLAIN, json={"instances": [{"data": TEXT}], "parameters": {"target": 7}}, timeout=60
    ).json()["explanations"]
    (by_instance,) = answer["explanations"]
    assert by_instance["explanations"][0]["class_id"] == by_parameter["explanations"][0]["class_id"] == "n01514668"


@pytest.mark.parametrize(
    ("route", "document", "message"),
    [
        # pytorch/serve examples/image_classifier/mnist/mnist_ts.json
        ("/explanations/densenet", {"data": TEXT, "target": 0}, 'JSON must be {"instances": [{"b64": '),
        # kserve docs/samples/v1beta1/torchserve/v2/tensor_conv/mnist_v2.json
        (
            V2,
            {"inputs": [{"name": "x", "shape": [1, 28, 28], "datatype": "FP32", "data": [[[0.0] * 28] * 28]}]},
            "BYTES [N]",
        ),
        # kserve docs/samples/v1beta1/triton/torchscript/input.json
        (
            V2,
            {"inputs": [{"name": "INPUT__0", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": []}]},
            "FP32 [N, 3, 224,",
        ),
        # kserve test/e2e/data/jay-v2.json
        (
            V2,
            {"inputs": [{"name": "x", "shape": [1, 3, 224, 224], "datatype": "FP64", "data": []}]},
            "FP32 [N, 3, 224, 224]",
        ),
        # triton client src/python/examples/ensemble_image_client.py
        (
            V2,
            {"inputs": [TENSOR | {"shape": [1], "data": [TEXT]}], "outputs": [{"name": "OUTPUT"}]},
            "unknown output 'OUTPUT'",
        ),
        # tensorflow/serving g3doc/api_rest.md, the column format
        (V1, {"inputs": {"image_bytes": {"b64": TEXT}}}, '"inputs" must be an image in base64'),
    ],
)
def test_a_sample_that_cannot_be_answered_says_what_to_change(
    base: str, route: str, document: object, message: str
) -> None:
    response = requests.post(base + route, json=document, timeout=60)
    assert response.status_code == 400
    assert message in error(response)[2]


def test_a_sample_of_a_tensor_in_another_order_says_the_right_shape(server: Server) -> None:
    """tensorflow/serving example/resnet_client.py, with the photo as numbers."""
    (result,) = server.post(json={"instances": [[[[0.5] * 3] * 2] * 2]}).json()["predictions"]
    assert "have the shape [2, 2, 3], not [3, 224, 224]" in result["error"]["message"]


def test_hugging_faces_client_fetches_a_url_itself(base: str, expected: dict[str, Any]) -> None:
    with standing_in(lambda _: (200, {"Content-Type": "image/jpeg"}, PHOTO)) as host:
        client = InferenceClient(model=f"{base}{INVOKE}?format=huggingface", token="none")
        for parameters in ({}, {"top_k": 2}):
            rows = client.image_classification(f"http://{host.address}/cat.jpg", **parameters)
            assert rows[0].label == expected["predictions"][0]["label"]


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": lambda content: zlib.compress(content, wbits=-15),
    "identity": bytes,
}


@pytest.mark.parametrize("encoding", COMPRESSIONS)
def test_a_compressed_body_is_read(base: str, expected: dict[str, Any], encoding: str) -> None:
    headers = JSON | {"Content-Encoding": encoding}

    def post(route: str, content: bytes, **more: str) -> Any:
        body = COMPRESSIONS[encoding](content)
        return requests.post(base + route, data=body, headers=headers | more, timeout=60).json()

    assert same(post(PREDICTIONS, PHOTO, **OCTETS), expected)
    assert same(post(V1, json.dumps({"instances": [TEXT]}).encode())["predictions"][0], expected)
    assert same(post(V1, ("\ufeff" + json.dumps({"instances": [TEXT]})).encode())["predictions"][0], expected)
    assert post(PREDICTIONS, b'{"inputs": [', **OCTETS).keys() == {"error", "code"}  # the shape of v2


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_may_compress_its_request(base: str, algorithm: str, binary: bool) -> None:
    image = triton.InferInput("image", [1], "BYTES")
    value = np.array([PHOTO if binary else TEXT], dtype=object)
    image.set_data_from_numpy(value, binary_data=binary)
    with triton.InferenceServerClient(base.removeprefix("http://")) as client:
        plain = client.infer("densenet", [image]).as_numpy("probabilities")
        compressed = client.infer("densenet", [image], request_compression_algorithm=algorithm)
    assert compressed.as_numpy("probabilities") == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream", None])
def test_json_of_windows_tools_is_read(
    base: str, expected: dict[str, Any], encoding: str, content_type: str | None
) -> None:
    text = ("\ufeff" if encoding == "utf-16-be" else "") + json.dumps({"instances": [TEXT]})
    headers = {"Content-Type": content_type} if content_type else {}
    answer = requests.post(base + PREDICTIONS, data=text.encode(encoding), headers=headers, timeout=60).json()
    assert same(answer["predictions"][0], expected)


LIMIT = 10 * 2**20
DEEP = gzip.compress(gzip.compress(bytes(LIMIT)))
HOSTILE: dict[str, tuple[str, bytes, int, str]] = {
    "a bomb": ("gzip", gzip.compress(bytes(200 * 2**20)), 413, "body_too_large"),
    "a bomb of a byte too many": ("deflate", zlib.compress(bytes(LIMIT + 1)), 413, "body_too_large"),
    "zeros up to the limit": ("gzip", gzip.compress(bytes(LIMIT)), 415, "not_an_image"),
    "a bomb in a bomb": ("gzip", DEEP, 415, "unsupported_format"),
    "a bomb in a bomb, both named": ("gzip, gzip", DEEP, 415, "bad_encoding"),
    "a thousand codings": ("gzip," * 400, DEEP, 415, "bad_encoding"),
    "half a million members": ("gzip", gzip.compress(b"") * 500_000, 415, "bad_encoding"),
    "a body that is not compressed": ("gzip", PHOTO, 415, "bad_encoding"),
    "an unknown coding": ("br", PHOTO, 415, "bad_encoding"),
    "no name of a coding": ("[PID]1", PHOTO, 415, "bad_encoding"),
    "half of it": ("gzip", gzip.compress(PHOTO)[: len(PHOTO) // 2], 415, "bad_encoding"),
    "a wrong checksum": ("gzip", gzip.compress(PHOTO)[:-8] + bytes(8), 415, "bad_encoding"),
    "deflate of nothing": ("deflate", b"\0", 415, "bad_encoding"),
    "brackets": ("gzip", gzip.compress(b"[" * 5_000_000), 400, "bad_json"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_compressed_body_is_refused(base: str, what: str) -> None:
    encoding, body, status, code = HOSTILE[what]
    headers = OCTETS | {"Content-Encoding": encoding}
    assert error(requests.post(base + PREDICTIONS, data=body, headers=headers, timeout=60))[:2] == (status, code)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x" * 3000])
@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, bytes])
def test_a_compressed_form_is_refused(base: str, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": encoding}
    body = compress(form([part(FILE)], "x"))
    answer = error(requests.post(base + PREDICTIONS, data=body, headers=headers, timeout=60))
    assert answer[:2] == (415, "bad_encoding")
    assert "a form must not be compressed" in answer[2]


@pytest.mark.parametrize(
    "body", [b"\xef\xbb\xbf" * 100_000, b"\xff\xfe" * 100_000, b"\xfe\xff", b"\xff\xfe{", b"\xef\xbb\xbf"]
)
@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream"])
def test_byte_order_marks_hurt_nobody(server: Server, body: bytes, content_type: str) -> None:
    assert error(server.post(data=body, headers={"Content-Type": content_type}))[0] in (400, 415)


def test_ten_thousand_parts_under_one_name_are_refused(server: Server) -> None:
    response = send_form(
        server.url, [part('Content-Disposition: form-data; name="a"; filename="b"', content=b"x")] * 10_000
    )
    assert error(response)[:2] == (413, "too_many_images")


# What TorchServe answers before the handler runs: docs/errors.md.
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("body", [b"a=%ZZ", b"a=%", b"a=%4", b"%ZZ=1", b"=x", b"&", b"\xff\xd8 x=1&&y=2", b"a=1&=2"])
def test_an_urlencoded_form_that_torchserve_cannot_parse_is_its_own_500(server: Server, body: bytes) -> None:
    response = server.post(data=body, headers=URLENCODED)
    assert (response.status_code, response.json()["type"]) == (500, "ErrorDataDecoderException")


@pytest.mark.parametrize(
    "body", [b"a=%41", b"%ZZ", b"a", b"\xff\xd8\xff\xe0 no sign of equality, %", b"a=1&b", b"\xff=\xff"]
)
def test_an_urlencoded_form_that_it_can_parse_is_refused_by_the_handler(server: Server, body: bytes) -> None:
    assert error(server.post(data=body, headers=URLENCODED))[:2] == (400, "bad_form")


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Disposition: form-data"],
        ['Content-Disposition: form-data; name=""'],
        ["Content-Type: image/jpeg"],
        [FILE, "Content-Transfer-Encoding: base64"],
        [FILE, "Content-Transfer-Encoding: quoted-printable"],
        [FILE, "Content-Type: image/jpeg; charset=nonsense"],
    ],
)
def test_a_part_that_torchserve_cannot_parse_is_its_own_500(server: Server, lines: list[str]) -> None:
    response = send_form(server.url, [part(*lines)])
    assert (response.status_code, response.json()["type"]) == (500, "ErrorDataDecoderException")
