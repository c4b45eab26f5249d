"""The gateway against clients that are slow, many, or up to something. Time-outs are of a second, given by options."""

import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from densenet.service import management
from tests.integration.conftest import Server
from tests.integration.gateways import Gateway, Opener, error, open_gateway, read_all, standing_in, wants_nginx
from tests.photos import cutouts, encode

__all__ = ["open_gateway"]
pytestmark = wants_nginx

PHOTO = encode(cutouts(1)[0])
LARGE = encode(cutouts(2)[1].resize((3000, 2000)), "PNG")
IDLE = 1000


PATIENT = ("--header-seconds", "60", "--body-seconds", "60", "--rate", "1000", "--burst", "1000")


@pytest.fixture(scope="module")
def gateway(open_gateway: Opener, server: Server) -> Gateway:
    return open_gateway(*PATIENT, "--idle-seconds", "1", upstreams=(server.service.inference,))


@pytest.fixture(scope="module")
def hasty(open_gateway: Opener, server: Server) -> Gateway:
    return open_gateway("--header-seconds", "1", "--body-seconds", "1", upstreams=(server.service.inference,))


@pytest.fixture(scope="module")
def plain(open_gateway: Opener, server: Server) -> Gateway:
    return open_gateway(*PATIENT, upstreams=(server.service.inference,), tls=False)


def head(gateway: Gateway, *lines: str, line: str = "POST /predict HTTP/1.1", key: bool = True) -> bytes:
    keys = [f"X-API-Key: {gateway.key}"] if key else []
    return "\r\n".join((line, "Host: x", *keys, *lines, "", "")).encode()


def first(answers: bytes) -> tuple[int, str]:
    """Status and code of the first answer."""
    top, _, rest = answers.partition(b"\r\n\r\n")
    document, _ = json.JSONDecoder().raw_decode(rest.decode())
    return int(top.split()[1]), document["error"]["code"] if "error" in document else ""


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST /pre", b"POST /predict HTTP/1.1\r\nHost: x\r\nX-A: "],
    ids=["nothing", "half a line", "half a header"],
)
def test_a_slow_header_is_cut_off(hasty: Gateway, begun: bytes) -> None:
    """Also where a byte comes now and then: the limit is for the whole header."""
    with hasty.connect() as connection:
        connection.sendall(begun)
        connection.settimeout(0.2)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                if not connection.recv(100):
                    return
            with contextlib.suppress(OSError):
                connection.sendall(b"x" if begun else b"")
    raise AssertionError("still connected")


def test_a_tls_handshake_that_does_not_come_is_cut_off(hasty: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=30) as connection:
        assert read_all(connection) == b""


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_slow_body_is_cut_off(hasty: Gateway, framing: str) -> None:
    assert b" 200 " not in hasty.talk(head(hasty, framing) + b"5\r\nhello")


def test_an_idle_connection_is_closed(gateway: Gateway) -> None:
    answers = gateway.talk(head(gateway, f"Content-Length: {len(PHOTO)}") + PHOTO)
    assert answers.count(b"HTTP/1.1 200 ") == 1


def test_a_client_that_does_not_read_is_cut_off(open_gateway: Opener) -> None:
    with standing_in(lambda _: (200, {}, bytes(9_000_000))) as behind:
        opened = open_gateway("--body-seconds", "1", upstreams=(behind.address,))
        with opened.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(head(opened, "Content-Length: 0"))
            opened.wait(opened.log)
        (entry,) = opened.log()
        assert (entry["status"], entry["upstream_status"]) == (200, "200")
        assert entry["bytes_sent"] < 9_000_000
        assert len(opened.predict(PHOTO).content) == 9_000_000


def test_huge_headers_are_refused(gateway: Gateway) -> None:
    for lines in (["X-A: " + "a" * 5000], [f"X-{i}: {'a' * 1000}" for i in range(20)], ["Cookie: " + "a" * 100_000]):
        assert first(gateway.talk(head(gateway, *lines))) == (431, "headers_too_large")
    assert first(gateway.talk(head(gateway, line=f"GET /{'a' * 9000} HTTP/1.1"))) == (414, "address_too_long")


def test_many_small_headers_do_not_reach_the_service(gateway: Gateway) -> None:
    """TorchServe refuses 8 kB of headers; those that nobody reads are not passed on."""
    assert gateway.predict(PHOTO, headers={f"X-Mine-{i}": "a" * 1000 for i in range(8)}).ok


@pytest.fixture
def idle(plain: Gateway) -> Iterator[list[socket.socket]]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))
    with contextlib.ExitStack() as opened:
        yield [
            opened.enter_context(socket.create_connection(("127.0.0.1", plain.port), timeout=30)) for _ in range(IDLE)
        ]


def test_a_thousand_idle_connections_leave_room_for_a_prediction(plain: Gateway, idle: list[socket.socket]) -> None:
    for i, connection in enumerate(idle):
        connection.sendall((b"", b"GET /he", head(plain, "Content-Length: 1000"))[i % 3 if i < 90 else i % 2])
    assert plain.predict(PHOTO).ok
    alive = 0
    for connection in idle:
        connection.settimeout(0)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            alive += len(connection.recv(1)) - 1
            continue
        alive += 1
    assert alive == IDLE  # they were there all the while


def test_slow_clients_of_one_key_leave_room_for_another(plain: Gateway) -> None:
    """Half-sent bodies hold places: as many as one key may have, and not all."""
    other = "0" * 40
    with plain.taking_up():
        plain.keys.write_text(f"{plain.keys.read_text()}other {other}\n")
    with contextlib.ExitStack() as opened:
        for _ in range(60):
            connection = opened.enter_context(plain.connect())
            connection.sendall(head(plain, "Content-Length: 1000") + b"half")
        plain.wait(lambda: plain.predict(PHOTO).status_code == 503)
        answer = plain.predict(PHOTO)
        assert (error(answer), answer.headers["retry-after"]) == ((503, "overloaded"), "2")
        assert plain.predict(PHOTO, key=other).ok
    plain.wait(lambda: plain.predict(PHOTO).ok)


TRICKS = (
    "/models",
    "/models/densenet",
    "/models/densenet?min_worker=0",
    "/models/densenet/1.0/set-default",
    "/models?url=http://x/y.mar",
    "/workflows",
    "/workflows/x",
    "/metrics",
    "/token?type=management",
    "/predictions/densenet/../../models/densenet?min_worker=0",
    "/predictions/densenet/..%2f..%2fmodels/densenet?min_worker=0",
    "/predictions/densenet/%2e%2e/%2e%2e/models/densenet?min_worker=0",
    "/predictions/densenet/..;/..;/models/densenet?min_worker=0",
    "/predictions/densenet%2f..%2f..%2fmodels%2fdensenet?min_worker=0",
    "/predictions/densenet/%252e%252e%252f%252e%252e%252fmodels",
    "/predictions/densenet\\..\\..\\models",
    "/predictions/densenet/1.0/models/densenet",
    "/predictions/densenet/1.0%0d%0aX-A:%20b",
    "/predictions/densenet/1.0%00",
    "/predictions/densenet/..",
    "/predictions/densenet/../../models/densenet%3fmin_worker=0",
    "/predictions/other",
    "/predictions/",
    "/predictions",
    "/explanations/other/1.0",
    "/v1/models/densenet:scale",
    "/v1/models/other:predict",
    "/v2/repository/index",
    "/models/other/invoke",
    "/models/densenet/invoke/../../densenet",
    "/invocations",
    "/densenet/predict",
    "/api-description",
    "/ping",
    "/-/described",
    "/-/error",
    "/-/page",
    "/-/plain",
    "/PREDICTIONS/densenet",
    "//models//densenet",
    "/./models/densenet",
    "http://127.0.0.1:8081/models/densenet?min_worker=0",
    "http://x/../models",
    "unix:/run/x.sock",
    "*",
    "/predict/../../../../etc/passwd",
    "/%",
    "/%zz",
    "/\u00e9",
)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT"])
def test_management_cannot_be_reached(gateway: Gateway, server: Server, method: str) -> None:
    workers = server.workers()
    assert len(workers) == 2
    for target in TRICKS:
        lines = ("Content-Length: 0", "Connection: close", "X-Original-URL: /models", "X-Rewrite-URL: /models")
        answers = gateway.talk(head(gateway, *lines, line=f"{method} {target} HTTP/1.1"))
        status = int(answers.split()[1])
        assert status in (400, 404, 405), (target, answers)
        assert first(answers)[1] in ("bad_request", "not_found", "method_not_allowed"), target
    state = management.describe(server.service)
    assert state is not None
    assert (state.min_workers, server.workers()) == (2, workers)


@pytest.mark.parametrize(
    "target",
    [
        "/models/../predictions/densenet",
        "//predictions///densenet",
        "/predictions/./densenet",
        "/%70redict",
        "http://127.0.0.1:8081/predict",
        "/predict?min_worker=0&model_name=x",
    ],
)
def test_what_means_a_prediction_is_one_however_it_is_written(gateway: Gateway, target: str) -> None:
    lines = ("Connection: close", f"Content-Length: {len(PHOTO)}", "X-Original-URL: /models", "X-HTTP-Method: DELETE")
    answers = gateway.talk(head(gateway, *lines, line=f"PUT {target} HTTP/1.1") + PHOTO)
    assert answers.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("host", ["127.0.0.1:8081", "evil.example", "localhost:8081@x", ""])
def test_the_host_leads_nowhere_else(gateway: Gateway, host: str) -> None:
    request = f"PUT /models/densenet?min_worker=0 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert int(gateway.talk(request.encode()).split()[1]) in (400, 404)


SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 4"),
        ("Content-Length: 4", "Content-Length: 90"),
        ("Content-Length: 4, 90",),
        ("Content-Length: +4",),
        ("Content-Length: -4",),
        ("Content-Length: 0x4",),
        ("Content-Length: 99999999999999999999999",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: identity, chunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding:\x0bchunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("X-A: b\nContent-Length: 4", "Content-Length: 90"),
    ],
    ids=repr,
)
def test_framing_with_two_meanings_is_refused_and_ends_the_connection(
    gateway: Gateway, framing: tuple[str, ...]
) -> None:
    answers = gateway.talk(head(gateway, *framing) + b"0\r\n\r\n" + SMUGGLED)
    assert first(answers)[0] in (400, 413, 501), answers
    assert first(answers)[1] in ("bad_request", "body_too_large")
    assert b"smuggled" not in answers


@pytest.mark.parametrize(
    "chunks", [b"g\r\nx\r\n0\r\n\r\n", b"-1\r\nx\r\n", b"fffffffffffffffff\r\nx", b"1\r\nxx0\r\n\r\n"]
)
def test_broken_chunks_are_refused(gateway: Gateway, chunks: bytes) -> None:
    answers = gateway.talk(head(gateway, "Transfer-Encoding: chunked") + chunks + SMUGGLED)
    assert first(answers) in ((400, "bad_request"), (413, "body_too_large"))
    assert b"smuggled" not in answers


@pytest.mark.parametrize(
    "lines", [("Connection: X-API-Key, close",), ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings")]
)
def test_headers_of_the_hop_change_nothing(plain: Gateway, lines: tuple[str, ...]) -> None:
    last = () if "close" in lines[0] else ("Connection: close",)
    answers = plain.talk(head(plain, *lines, *last, f"Content-Length: {len(PHOTO)}") + PHOTO)
    assert answers.startswith(b"HTTP/1.1 200 ")


def test_a_trailer_and_an_expectation_change_nothing(gateway: Gateway) -> None:
    chunked = f"{len(PHOTO):x}\r\n".encode() + PHOTO + b"\r\n0\r\nX-API-Key: no\r\nContent-Length: 4\r\n\r\n"
    lines = ("Transfer-Encoding: chunked", "Connection: close", "TE: trailers", "Trailer: X-API-Key")
    assert gateway.talk(head(gateway, *lines) + chunked).startswith(b"HTTP/1.1 200 ")
    lines = (f"Content-Length: {len(PHOTO)}", "Connection: close", "Expect: 100-continue")
    assert b"HTTP/1.1 200 " in gateway.talk(head(gateway, *lines) + PHOTO)


def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    """TorchServe itself answers the quick one first."""
    sent = b"".join(
        head(gateway, f"X-Request-Id: n{i}", f"Content-Length: {len(body)}", line=line) + body
        for i, (line, body) in enumerate(
            [
                ("PUT /predict HTTP/1.1", LARGE),
                ("GET /healthz HTTP/1.1", b""),
                ("PUT /predict HTTP/1.1", PHOTO),
                ("GET /nothing HTTP/1.1", b""),
            ]
        )
    )
    answers = gateway.talk(sent)
    places = [answers.index(f"X-Request-Id: n{i}\r\n".encode()) for i in range(4)]
    assert places == sorted(places)
    assert answers.count(b"HTTP/1.1 ") == 4


def test_something_else_than_http_is_refused(plain: Gateway) -> None:
    for sent in (
        b"\x16\x03\x01\x00\xa5\x01\x00\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 100,
        b"SSH-2.0-x\r\n",
    ):
        answers = plain.talk(sent)
        assert answers == b"" or first(answers)[1] == "bad_request", sent
    assert plain.talk(b"GET /healthz\r\n") == b'{"status": "pass"}\n'  # HTTP/0.9
    assert plain.predict(PHOTO).ok
