"""The gateway before the real service: whom it lets in, what it lets through, and that answers arrive as they are."""

import asyncio
import base64
import io
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from densenet_client import Client, Unauthorized
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

from handler.payload import OPTION_HEADERS
from tests.integration.conftest import Server, same
from tests.integration.gateways import (
    Gateway,
    Opener,
    error,
    make_certificate,
    new_key,
    open_gateway,
    run_gateway,
    wants_nginx,
)
from tests.photos import cutouts, encode

__all__ = ["open_gateway"]
pytestmark = wants_nginx

PHOTO = encode(cutouts(1)[0])
KEY = "0123456789abcdef" * 3
TEXT = base64.b64encode(PHOTO).decode()
BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"
V1 = {"instances": [{"b64": TEXT}]}
V2 = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]}
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/predict", {"data": PHOTO}),
    ("/predictions/densenet", {"data": PHOTO}),
    ("/predictions/densenet/1.0", {"data": PHOTO}),
    ("/explanations/densenet", {"data": PHOTO}),
    ("/v1/models/densenet:predict", {"json": V1}),
    ("/v1/models/densenet:explain", {"json": V1}),
    ("/v2/models/densenet/infer", {"json": V2}),
    ("/models/densenet/invoke?top_k=3", {"data": PHOTO, "headers": {"Content-Type": "image/jpeg"}}),
]


@pytest.fixture(scope="module")
def gateway(open_gateway: Opener, server: Server) -> Gateway:
    return open_gateway("--rate", "1000", "--burst", "1000", upstreams=(server.service.inference,))


@pytest.fixture(scope="module")
def plain(open_gateway: Opener, server: Server) -> Gateway:
    return open_gateway("--rate", "1000", "--burst", "1000", upstreams=(server.service.inference,), tls=False)


@pytest.mark.parametrize(("route", "request_"), ROUTES, ids=[route for route, _ in ROUTES])
def test_every_route_wants_a_key_and_answers_with_one(gateway: Gateway, route: str, request_: dict[str, Any]) -> None:
    refused = [gateway.ask("POST", route, key=None, **request_), gateway.ask("POST", route, key=new_key(), **request_)]
    assert [error(answer) for answer in refused] == [(401, "unauthorized")] * 2
    assert refused[0].headers["www-authenticate"] == "Bearer"
    answer = gateway.ask("POST", route, **request_)
    assert answer.status_code == 200, answer.text
    headers = request_.get("headers", {}) | {"Authorization": f"Bearer {gateway.key}"}
    bearer = gateway.ask("POST", route, key=None, **(request_ | {"headers": headers}))
    assert bearer.json() == answer.json()


def test_a_key_is_taken_as_it_is_written_and_in_no_other_way(gateway: Gateway) -> None:
    wrong = [
        gateway.key.upper(),
        gateway.key[:-1],
        gateway.key + "0",
        "first",
        ".*",
        f"{gateway.key} x",
        f"^{gateway.key}$",
    ]
    assert {gateway.predict(PHOTO, key=key).status_code for key in wrong} == {401}
    for scheme in ("Basic", "Token", "Bearer:"):
        answer = gateway.predict(PHOTO, key=None, headers={"Authorization": f"{scheme} {gateway.key}"})
        assert answer.status_code == 401
    assert gateway.predict(PHOTO, key=None, headers={"Authorization": f"bearer {gateway.key}"}).ok
    assert gateway.ask("PUT", f"/predict?api_key={gateway.key}", key=None, data=PHOTO).status_code == 401


def test_answers_are_the_services_own(gateway: Gateway, server: Server) -> None:
    assert same(gateway.predict(PHOTO).json(), server.send(PHOTO).json())
    for request in (
        {"data": b"text"},
        {"files": {"a": PHOTO}, "data": {"top_k": "0"}},
        {"json": {}},
        {"data": PHOTO[:999]},
    ):
        behind = server.post(**request)
        answer = gateway.ask("POST", "/predictions/densenet", **request)
        assert (answer.status_code, answer.text) == (behind.status_code, behind.text)
        assert 400 <= answer.status_code < 500


def test_every_option_of_the_handler_passes_as_a_header(gateway: Gateway) -> None:
    """nginx.conf.template lists them; a new one is to be added there."""
    for header in OPTION_HEADERS:
        route = "/explanations/densenet" if header in ("x-target", "x-overlays") else "/predictions/densenet"
        answer = gateway.ask("PUT", route, data=PHOTO, headers={header: "no such value"})
        assert (answer.status_code, header) == (400, header)


def test_the_flask_tutorials_client_works(gateway: Gateway) -> None:
    answer = gateway.ask("POST", "/predict", files={"file": ("cat.jpg", PHOTO, "image/jpeg")}).json()
    assert {"class_id", "class_name"} <= answer.keys()
    keras = gateway.ask("POST", "/predict", files={"image": PHOTO}).json()
    assert keras["success"] is True
    assert len(keras["predictions"]) == 5


def test_our_own_client_works_and_is_told_of_a_wrong_key(gateway: Gateway) -> None:
    with Client(gateway.url, token=gateway.key, verify=str(gateway.ca)) as client:
        assert len(client.classify(PHOTO)) == 5
    with Client(gateway.url, token=new_key(), verify=str(gateway.ca)) as client, pytest.raises(Unauthorized):
        client.classify(PHOTO)


def test_tritons_client_works(plain: Gateway) -> None:
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([PHOTO], dtype=object))
    with triton.InferenceServerClient(f"localhost:{plain.port}") as client:
        answer = client.infer("densenet", [image], headers={"X-API-Key": plain.key}, parameters={"top_k": 2})
    assert answer.as_numpy("labels").shape == (1, 2)


def test_kserves_client_works(plain: Gateway) -> None:
    async def ask() -> tuple[Any, Any]:
        headers = {"Authorization": f"Bearer {plain.key}"}
        async with (
            InferenceRESTClient(RESTConfig(protocol="v1")) as v1,
            InferenceRESTClient(RESTConfig(protocol="v2")) as v2,
        ):
            first = await v1.infer(plain.base, dict(V1), model_name="densenet", headers=headers)
            image = InferInput("image", [1], "BYTES")
            image.set_data_from_numpy(np.array([PHOTO], dtype=object))
            request = InferRequest("densenet", [image], parameters={"top_k": 2})
            return first, await v2.infer(plain.base, request, model_name="densenet", headers=headers)

    first, second = asyncio.run(ask())
    assert first["predictions"][0]["success"] is True
    assert {tensor.name for tensor in second.outputs} >= {"probabilities", "labels"}


def test_an_explanation_comes_as_a_picture(gateway: Gateway) -> None:
    answer = gateway.ask("PUT", "/explanations/densenet", data=PHOTO, headers={"Accept": "image/png"})
    assert answer.content.startswith(b"\x89PNG")


def test_the_page_needs_no_key_and_its_form_does(gateway: Gateway) -> None:
    page = gateway.ask("GET", "/predictions/densenet", key=None, headers={"Accept": BROWSER, "Accept-Language": "ko"})
    assert (page.status_code, page.headers["content-language"]) == (200, "ko")
    (link,) = re.findall(r'href="([^"]+/zh-Hant)"', page.text)
    for address in (link, link.replace("/1.0/", "/another-version/")):
        answer = gateway.ask("GET", address, key=None, headers={"Accept": BROWSER, "Accept-Language": "ko"})
        assert (answer.status_code, answer.headers["content-language"]) == (200, "zh-Hant")
        assert answer.headers["content-encoding"] == "gzip"
    assert gateway.ask("GET", link.replace("zh-Hant", "xx"), headers={"Accept": BROWSER}).status_code == 404
    (card,) = re.findall(r'href="([^"]+/MODEL_CARD.md)"', page.text)
    answer = gateway.ask("GET", card, key=None, headers={"Accept": BROWSER})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert answer.text.startswith("---\npipeline_tag: image-classification\n")
    assert gateway.ask("GET", card.replace("/1.0/", "/another-version/"), key=None).status_code == 404
    assert gateway.ask("GET", card, key=None, data=PHOTO).status_code == 401  # an image in it would be a prediction
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    form = {"files": {"file": PHOTO}, "headers": {"Accept": BROWSER}}
    assert gateway.ask("POST", "/predictions/densenet", key=None, **form).status_code == 401
    answered = gateway.ask("POST", "/predictions/densenet", **form)
    assert answered.headers["content-type"].startswith("text/html")
    assert 'class="card' in answered.text


@pytest.mark.parametrize("framing", [{"data": PHOTO}, {"data": iter([PHOTO])}], ids=["length", "chunked"])
def test_a_get_of_the_page_with_an_image_is_a_prediction_and_wants_a_key(
    gateway: Gateway, framing: dict[str, Any]
) -> None:
    headers = {"Accept": "text/html, application/json", "Content-Type": "image/jpeg"}
    assert error(gateway.ask("GET", "/predictions/densenet", key=None, headers=headers, **framing)) == (
        401,
        "unauthorized",
    )


def test_a_head_has_no_body(gateway: Gateway) -> None:
    for _ in range(3):
        answer = gateway.ask("HEAD", "/predictions/densenet", key=None, headers={"Accept": BROWSER})
        assert (answer.status_code, answer.content) == (200, b"")
        assert gateway.predict(PHOTO).ok


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "TRACE", "PROPFIND", "FOO"])
def test_other_methods_are_refused(gateway: Gateway, method: str) -> None:
    answer = gateway.ask(method, "/predictions/densenet", data=PHOTO)
    assert answer.status_code == 405
    assert method == "TRACE" or error(answer) == (405, "method_not_allowed")


def test_options_tells_the_methods_and_asks_nobody(gateway: Gateway) -> None:
    answer = gateway.ask("OPTIONS", "/predictions/densenet", key=None)
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, POST, PUT, OPTIONS")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "text/html", "application/xml", "image", "x/y"]
)
def test_other_content_types_are_refused(gateway: Gateway, content_type: str) -> None:
    answer = gateway.ask("POST", "/predictions/densenet", data=PHOTO, headers={"Content-Type": content_type})
    assert error(answer) == (415, "unsupported_content_type")


@pytest.mark.parametrize("content_type", ["IMAGE/JPEG", "image/svg+xml", "application/octet-stream", None])
def test_images_pass_under_any_type_of_images(gateway: Gateway, content_type: str | None) -> None:
    assert gateway.predict(PHOTO, headers={"Content-Type": content_type}).ok


def test_a_request_id_is_the_callers_or_a_new_one_on_every_answer(gateway: Gateway) -> None:
    paths = ["/predictions/densenet", "/healthz", "/nothing"]
    for path in paths:
        given = gateway.ask("PUT", path, data=PHOTO, headers={"X-Request-Id": "order-7.a_b"})
        assert given.headers["x-request-id"] == "order-7.a_b"
        assert given.raw.headers.getlist("x-request-id") == ["order-7.a_b"]
    for bad in ("", "a b", 'a"b', "é", "x" * 129, "a\tb"):
        own = gateway.predict(PHOTO, headers={"X-Request-Id": bad.encode()}).headers["x-request-id"]
        assert len(own) == 32
        assert set(own) <= set("0123456789abcdef")
    assert gateway.predict(PHOTO, headers={"X-Request-Id": "x" * 128}).headers["x-request-id"] == "x" * 128


def test_the_log_has_names_and_no_keys(gateway: Gateway) -> None:
    mark = new_key()
    gateway.predict(PHOTO, headers={"X-Request-Id": mark})
    gateway.ask("PUT", f"/predict?key={gateway.key}", data=PHOTO, headers={"Authorization": f"Bearer {gateway.key}"})
    gateway.predict(PHOTO, key=new_key())
    gateway.wait(lambda: any(line["status"] == 401 for line in gateway.log()[-3:]))
    (line,) = (line for line in gateway.log() if line["request_id"] == mark)
    assert (line["key"], line["status"], line["request"]) == ("first", 200, "PUT /predictions/densenet HTTP/1.1")
    assert line["upstream_status"] == "200"
    assert line["bytes_received"] > len(PHOTO)
    assert gateway.key not in (gateway.folder / "access.log").read_text() + gateway.said()


def test_tls_1_3_is_spoken_and_nothing_older(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        assert isinstance(connection, ssl.SSLSocket)
        assert connection.version() == "TLSv1.3"
    context = ssl.create_default_context(cafile=str(gateway.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", gateway.port)) as plain_socket,
        pytest.raises(ssl.SSLError, match="version"),
    ):
        context.wrap_socket(plain_socket, server_hostname="localhost")
    answer = requests.get(f"http://localhost:{gateway.port}/healthz", timeout=60)
    assert error(answer) == (400, "https_wanted")


def test_health_needs_no_key(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/healthz", key=None)
    assert (answer.status_code, answer.json()) == (200, {"status": "pass"})


def test_security_headers(gateway: Gateway) -> None:
    headers = gateway.predict(PHOTO).headers
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers["server"] == "nginx"
    assert "access-control-allow-origin" not in headers


def test_a_body_of_the_limit_passes_and_one_more_byte_does_not(gateway: Gateway) -> None:
    limit = 10 * 2**20
    for framing in (lambda body: body, lambda body: iter([body[:7_000_000], body[7_000_000:]])):
        assert error(gateway.predict(framing(b"x" * limit)))[0] == 415  # the handler's: this is no image
        assert error(gateway.predict(framing(b"x" * (limit + 1)))) == (413, "body_too_large")


def picture_of_nine_megabytes() -> bytes:
    content = encode(cutouts(1)[0].resize((1700, 1800)), "BMP")
    assert 9_000_000 < len(content) < 10_000_000
    return content


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_never_on_disk(gateway: Gateway, chunked: bool) -> None:
    """Looked for when nearly all of it has arrived, among files that have a name and files that have none."""
    body = picture_of_nine_megabytes()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {gateway.key}\r\n{framing}\r\n\r\n"
    pieces = [body[i : i + 4096] for i in range(0, len(body), 4096)]
    sent = [f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if chunked else piece for piece in pieces]
    with gateway.connect() as connection:
        connection.sendall(head.encode() + b"".join(sent[:-1]))
        # nginx has taken what it could: its log says so only at the end, its open files do at once.
        gateway.ask("GET", "/healthz")
        assert files_of(gateway) == []
        connection.sendall(sent[-1] + (b"0\r\n\r\n" if chunked else b""))
        answer = io.BytesIO()
        while piece := connection.recv(65536):
            answer.write(piece)
    assert answer.getvalue().startswith(b"HTTP/1.1 200 ")
    assert files_of(gateway) == []


def test_a_body_in_chunks_of_a_byte_goes_to_memory_all_the_same(gateway: Gateway) -> None:
    """Six bytes on the wire for one: more than the buffer holds. What nginx then writes, it writes to memory."""
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {gateway.key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with gateway.connect() as connection:
        connection.sendall(head.encode() + b"1\r\nx\r\n" * 2_500_000)
        gateway.wait(lambda: files_of(gateway))
        assert gateway.run_folder().is_relative_to("/dev/shm")
        connection.sendall(b"0\r\n\r\n")
        assert b"not_an_image" in connection.recv(65536)


def files_of(gateway: Gateway) -> list[str]:
    """Regular files in the temporary folders, and those that the processes hold open there."""
    folders = [gateway.run_folder() / name for name in ("body", "proxy", "unused")]
    assert all(folder.is_dir() for folder in folders)
    named = [str(path) for folder in folders for path in folder.rglob("*")]
    links = [path for process in gateway.processes() for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    opened = [str(path.readlink()) for path in links if path.is_symlink()]
    return named + [target for target in opened if any(target.startswith(f"{folder}/") for folder in folders)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plain"], "--keys FILE, or --no-keys"),
        (["--plain", "--no-keys", "--listen", "0.0.0.0:9999"], "--plain is for loopback"),
        (["--no-keys"], "--certificate and --key"),
        (["--plain", "--keys", "/nonexistent/keys"], "cannot read --keys /nonexistent/keys: No such file"),
        (
            ["--certificate", "/nonexistent/tls", "--key", "/nonexistent/key", "--no-keys"],
            "--certificate /nonexistent/tls",
        ),
        (
            ["--plain", "--no-keys", "--upstream-ca", "/nonexistent/ca"],
            "cannot read --upstream-ca /nonexistent/ca: No such",
        ),
        (
            ["--plain", "--no-keys", "--access-log", "/nonexistent/log"],
            "--access-log: cannot write to /nonexistent/log",
        ),
        (["--plain", "--no-keys", "--upstream", "ftp://x"], "is not an upstream"),
        (["--plain", "--no-keys", "--listen", "localhost"], "--listen must be an address"),
    ],
)
def test_it_refuses_to_start_with_a_door_open(options: list[str], words: str) -> None:
    upstream = [] if "--upstream" in options else ["--upstream", "127.0.0.1:1"]
    done = run_gateway(*options, *upstream)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "contains no key"),
        ("# nobody\n", "contains no key"),
        ("first short\n", "line 1"),
        (f"{KEY}\n", "line 1"),
        (f'first {KEY}"; }}\n', "line 1"),
        (f"a.b {KEY}\n", "line 1"),
        (f"a {KEY}\nb {KEY}\n", "same key"),
        (f"é {KEY}\n", "letters"),
    ],
)
def test_it_refuses_to_start_with_a_bad_file_of_keys(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "keys").write_text(text)
    done = run_gateway("--plain", "--keys", str(tmp_path / "keys"), "--upstream", "127.0.0.1:1")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert words in done.stderr
    assert not [word for word in text.split() if len(word) > 31 and word in done.stderr]


def test_a_port_that_is_taken_and_a_key_that_does_not_fit_are_told(gateway: Gateway, tmp_path: Path) -> None:
    done = run_gateway("--plain", "--no-keys", "--upstream", "127.0.0.1:1", "--listen", f"127.0.0.1:{gateway.port}")
    assert (done.returncode, "cannot listen on" in done.stderr) == (1, True)
    certificate, _ = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = make_certificate(tmp_path / "other")
    files = ["--certificate", str(certificate), "--key", str(other)]
    done = run_gateway(*files, "--no-keys", "--upstream", "127.0.0.1:1", "--listen", "127.0.0.1:1024")
    assert (done.returncode, "is not the key of --certificate" in done.stderr) == (1, True)
    assert len(done.stderr.splitlines()) == 1
