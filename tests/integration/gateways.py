"""Real gateways: scripts/gateway with certificate, keys, before a real TorchServe; and raw connections."""

import contextlib
import http.server
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from densenet import processes
from export import ROOT
from tests.integration.conftest import free_port

HAS_NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:" + os.environ.get("PATH", "")) is not None
wants_nginx = pytest.mark.skipif(
    not HAS_NGINX and os.environ.get("DENSENET_SYSTEM") != "required", reason="nginx is not installed"
)

TAKEN_UP = "the gateway has reloaded its files"


@dataclass(frozen=True)
class Gateway:
    """A running gateway, its first key, and what tests ask it."""

    process: "subprocess.Popen[bytes]"
    port: int
    ca: Path | None
    keys: Path
    folder: Path
    key: str

    @property
    def base(self) -> str:
        return f"{'https' if self.ca else 'http'}://localhost:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.base}/predictions/densenet"

    def ask(self, method: str, path: str, *, key: str | None = "", **request: Any) -> requests.Response:
        """One request on a connection of its own; key: None for none."""
        headers = {} if key is None else {"X-API-Key": key or self.key}
        headers |= request.pop("headers", {})
        verify = str(self.ca) if self.ca else True
        return requests.request(method, self.base + path, headers=headers, verify=verify, timeout=60, **request)

    def predict(self, image: bytes, **request: Any) -> requests.Response:
        return self.ask("PUT", "/predictions/densenet", data=image, **request)

    def connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        if self.ca is None:
            return plain
        return ssl.create_default_context(cafile=str(self.ca)).wrap_socket(plain, server_hostname="localhost")

    def talk(self, sent: bytes) -> bytes:
        """Everything that is answered to these bytes until the gateway closes the connection."""
        with self.connect() as connection:
            connection.sendall(sent)
            return read_all(connection)

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def run_folder(self) -> Path:
        words = self.processes()[0].cmdline()
        flat = " ".join(words).split()
        return Path(flat[flat.index("-p") + 1])

    def said(self) -> str:
        return (self.folder / "output").read_text()

    def log(self) -> list[dict[str, Any]]:
        """The access log."""
        path = self.folder / "access.log"
        return [json.loads(line) for line in path.read_text().splitlines()]

    @contextlib.contextmanager
    def taking_up(self) -> Iterator[None]:
        """Ends when the gateway has said that it goes on with the files that the block has changed."""
        told = self.said().count(TAKEN_UP)
        yield
        self.wait(lambda: self.said().count(TAKEN_UP) > told)

    def wait(self, condition: Callable[[], object], seconds: float = 30) -> None:
        processes.wait_until_ready(condition, self.process, seconds=seconds, log=self.folder / "output")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


Opener = Callable[..., Gateway]


class _Recording(http.server.BaseHTTPRequestHandler):
    """Answers as the stand-in says, and tells it what arrived."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "StandIn"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        status, headers, content = self.server.answer(len(self.server.seen))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815 what the library calls

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class StandIn(http.server.ThreadingHTTPServer):
    """In TorchServe's place, for what TorchServe cannot be made to answer."""

    daemon_threads = True

    def __init__(self, answer: Callable[[int], tuple[int, dict[str, str], bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Recording)
        self.answer = answer
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """nginx hangs up on what it waits for no longer; anything else is told."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serving(stand_in: StandIn) -> Iterator[StandIn]:
    with stand_in:
        thread = threading.Thread(target=stand_in.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield stand_in
        finally:
            stand_in.shutdown()
            thread.join()


def standing_in(
    answer: Callable[[int], tuple[int, dict[str, str], bytes]],
) -> contextlib.AbstractContextManager[StandIn]:
    """answer: from how many requests have arrived to status, headers and body."""
    return serving(StandIn(answer))


def read_all(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
        while piece := connection.recv(65536):
            found += piece
    return found


def error(response: requests.Response) -> tuple[int, str]:
    """Status and code of an answer in the service's own shape."""
    document = response.json()
    assert document["success"] is False
    assert response.headers["content-type"] == "application/json"
    return response.status_code, document["error"]["code"]


def new_key() -> str:
    return secrets.token_hex(24)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return certificate, key


def run_gateway(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """A gateway that is expected to end by itself."""
    command = [sys.executable, "-P", "-m", "densenet", "gateway", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@contextlib.contextmanager
def gateway(folder: Path, *options: str, upstreams: tuple[str, ...], tls: bool = True) -> Iterator[Gateway]:
    """A gateway until the end of the block, with one key of the caller `first`."""
    key, port = new_key(), free_port()
    keys = folder / "keys"
    keys.write_text(f"# callers\nfirst {key}\n")
    certificate, private = make_certificate(folder) if tls else (None, None)
    doors = ["--certificate", str(certificate), "--key", str(private)] if tls else ["--plain"]
    named = [word for upstream in upstreams for word in ("--upstream", upstream)]
    command = [
        sys.executable,
        "-P",
        "-m",
        "densenet",
        "gateway",
        "--listen",
        f"127.0.0.1:{port}",
        *doors,
        *named,
        *options,
    ]
    command += ["--access-log", str(folder / "access.log")]
    command += [] if "--no-keys" in options else ["--keys", str(keys)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with processes.running(command, folder / "output", environment, grace=30) as process:
        opened = Gateway(process, port, certificate, keys, folder, key)
        opened.wait(lambda: "the gateway is up" in opened.said())
        yield opened


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    """Opens gateways; all of them end with the module."""
    with ExitStack() as opened:

        def opener(*options: str, upstreams: tuple[str, ...], tls: bool = True) -> Gateway:
            folder = tmp_path_factory.mktemp("gateway")
            return opened.enter_context(gateway(folder, *options, upstreams=upstreams, tls=tls))

        yield opener
