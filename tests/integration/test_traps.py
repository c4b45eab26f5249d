"""TorchServe's own traps, closed or at least told."""

import http.client
from urllib.parse import urlsplit

import pytest
import requests

from tests.integration.conftest import Server
from tests.photos import cutouts, encode

PHOTO = encode(cutouts(1)[0])
MULTIPART = "multipart/form-data; boundary=xyz"


def code(response: requests.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.parametrize("body", [b"\x89PNG just bytes", b"a=1&b=2", b"justtext", b"GIF89a\0\1"])
def test_an_image_sent_as_an_urlencoded_form_is_told(server: Server, body: bytes) -> None:
    response = server.post(data=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert code(response) == (400, "bad_form")
    assert "--data-binary" in response.json()["error"]["message"]


def test_an_urlencoded_photo_that_torchserve_cannot_parse_hurts_nobody(server: Server) -> None:
    workers = server.workers()
    response = server.post(data=PHOTO, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert response.json().get("type") == "ErrorDataDecoderException" or code(response) == (400, "bad_form")
    assert server.send(PHOTO).status_code == 200
    assert server.workers() == workers


def part(name: str, content: bytes, file_name: str = "photo.jpg") -> bytes:
    head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="{file_name}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


@pytest.mark.parametrize(
    "body", [part("file", PHOTO)[:-2], part("file", PHOTO)[: len(PHOTO) // 2], b"--xyz--\r\n", b"", b"junk"]
)
def test_a_truncated_or_empty_form_is_told(server: Server, body: bytes) -> None:
    status, error = code(server.post(data=body, headers={"Content-Type": MULTIPART}))
    assert (status, error) in {(400, "bad_form"), (400, "no_image")}


def test_a_form_without_a_boundary_is_told(server: Server) -> None:
    response = server.post(data=part("file", PHOTO), headers={"Content-Type": "multipart/form-data"})
    assert code(response) == (400, "bad_form")


def test_a_forgotten_at_sign_and_a_misspelt_option_are_told(server: Server) -> None:
    assert code(server.post(files={"file": (None, "cat.jpg")})) == (400, "unknown_field")
    assert code(server.post(files={"file": PHOTO}, data={"topk": "3"})) == (400, "unknown_field")


@pytest.mark.parametrize("name", ["accept", "content-type", "x-top-k", "describe", "explain", "Content-Length"])
def test_parts_named_like_headers_are_images_all_the_same(server: Server, name: str) -> None:
    assert server.post(files={name: PHOTO}).json()["success"] is True


@pytest.mark.parametrize("body", [b'{"instances": [1, 2', b"null", b"7", b'"text"', b"[]", b"{}", b"[" * 100_000, b""])
@pytest.mark.parametrize("content_type", ["application/json", "APPLICATION/JSON; charset=utf-8"])
def test_json_that_is_none_or_of_no_known_form_is_told(server: Server, body: bytes, content_type: str) -> None:
    response = server.post(data=body, headers={"Content-Type": content_type})
    assert code(response) == (400, "bad_json")


@pytest.mark.parametrize(
    "route", ["/invocations?model_name=densenet", "/densenet/predict", "/predictions/densenet/1.0"]
)
@pytest.mark.parametrize("header", ["describe", "explain"])
def test_a_clients_control_headers_change_nothing(server: Server, route: str, header: str) -> None:
    headers = {header: "True", "Content-Type": "application/octet-stream"}
    response = requests.post(server.service.inference + route, data=PHOTO, headers=headers, timeout=60)
    assert response.json()["success"] is True


@pytest.mark.parametrize("content_type", ["text/plain", "text/html", "image/png", "application/xml", "nonsense"])
def test_the_bytes_decide_not_the_content_type(server: Server, content_type: str) -> None:
    assert server.send(PHOTO, **{"Content-Type": content_type}).json()["success"] is True
    assert code(server.send(b"plain text", **{"Content-Type": content_type})) == (415, "not_an_image")


def test_what_clients_send_cannot_forge_log_lines(server: Server) -> None:
    forged = "[PID]99999999999"
    server.post(files={f"a\n{forged}": PHOTO, "b": f"\n{forged}\n".encode()}, data={"top_k": f"\n{forged}"})
    server.send(f"\n{forged}\n".encode(), **{"X-Top-K": forged})
    assert forged not in server.log()
    assert server.send(PHOTO).status_code == 200


def test_a_chunked_upload_works(server: Server) -> None:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    pieces = (PHOTO[i : i + 1000] for i in range(0, len(PHOTO), 1000))
    connection.request("POST", address.path, pieces, {"Content-Type": "image/jpeg"}, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()


def test_a_log_line_is_not_written_for_every_request(server: Server) -> None:
    before = server.log()
    server.send(PHOTO)
    assert server.log() == before


@pytest.mark.parametrize(
    ("content_type", "body"), [(MULTIPART, b"--xyz\r\nfoo"), ("application/x-www-form-urlencoded", b"justtext")]
)
def test_an_empty_form_does_not_get_at_the_model_card(server: Server, content_type: str, body: bytes) -> None:
    response = server.post(data=body, headers={"Content-Type": content_type, "describe": "True"})
    assert code(response) == (400, "bad_form")


@pytest.mark.parametrize("body", [b"", b"no image"])
def test_an_answer_asked_for_in_the_query_is_refused_in_its_shape(server: Server, body: bytes) -> None:
    url = f"{server.service.inference}/models/densenet/invoke?format=huggingface"
    response = requests.post(url, data=body, headers={"Content-Type": "image/jpeg"}, timeout=60)
    assert response.status_code in (400, 415)
    assert isinstance(response.json()["error"], str)
