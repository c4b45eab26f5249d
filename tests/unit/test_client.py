"""The client against servers that are not the service, or not there."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from client.client import Refused, ServiceError, classify


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that always gives the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"predictions": 7}', b'{"predictions": [{}]}', b"null"]
)
def test_an_answer_that_is_not_the_services_is_told(body: bytes) -> None:
    with answering(200, body) as url, pytest.raises(ServiceError, match="answered 200, not as this service does"):
        classify(b"photo", url=url)


def test_torchserves_own_errors_are_told() -> None:
    body = b'{"code": 503, "type": "ServiceUnavailableException", "message": "no worker"}'
    with answering(503, body) as url, pytest.raises(ServiceError, match=r"answered 503.*no worker"):
        classify(b"photo", url=url)


def test_a_request_that_is_too_large_is_refused_without_a_body() -> None:
    with answering(413, b"") as url, pytest.raises(Refused) as refusal:
        classify(b"photo", url=url)
    assert refusal.value.code == "request_too_large"


def test_a_service_that_is_not_there_is_told_how_to_start() -> None:
    with pytest.raises(ServiceError, match="start the service with scripts/serve"):
        classify(b"photo", url="http://127.0.0.1:9/")
