"""Take copies of clients' requests from the gateway and send them to the new version, whose answers are dropped.

nginx's `mirror` ends a client's request only when its copy was answered; until then, the client's next request on the
same connection waits. So a copy is answered here as soon as it has arrived. One copy is computed at a time, two wait,
and the others are dropped: however slow the new version is, it delays no client, and occupies one worker at most.
"""

import contextlib
import http.server
import queue
import secrets
import threading
from collections.abc import Iterator, Mapping

import requests

from densenet.polling import wait_until
from densenet.service import authenticated_session
from densenet.service.management import LOADING
from densenet.service.torchserve import Service
from export.console import CliError

_WAITING = 2  # copies
_FINISH_SECONDS = 10  # for the copies that have arrived to be answered at the end
_NOT_COPIED = {"host", "connection", "content-length"}


class Receiver(http.server.ThreadingHTTPServer):
    """Answers each copy at once, and keeps it for the thread that sends it on."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Copy)
        self.copies: queue.Queue[tuple[Mapping[str, str], bytes]] = queue.Queue(_WAITING)
        self.dropped = 0
        self.path = f"/{secrets.token_hex(16)}"  # other users of this machine reach the port, too

    @property
    def address(self) -> str:
        """HOST:PORT/PATH for the gateway."""
        return f"127.0.0.1:{self.server_address[1]}{self.path}"

    def finish(self) -> None:
        """Wait until the copies that have arrived are answered, if the new version answers in time."""
        wait_until(lambda: not self.copies.unfinished_tasks, _FINISH_SECONDS)


class _Copy(http.server.BaseHTTPRequestHandler):
    server: Receiver
    timeout = 5

    def _receive(self) -> None:
        if not secrets.compare_digest(self.path, self.server.path):
            self.send_error(http.HTTPStatus.NOT_FOUND)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(http.HTTPStatus.NO_CONTENT)
        self.end_headers()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_COPIED}
        try:
            self.server.copies.put_nowait((headers, body))
        except queue.Full:
            self.server.dropped += 1

    do_POST = do_PUT = _receive  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def receiving(service: Service, version: str) -> Iterator[Receiver]:
    """Send copies on to a version for the time of the block."""
    with Receiver() as receiver:
        threading.Thread(target=_send_on, args=(receiver, service, version), daemon=True).start()
        thread = threading.Thread(target=receiver.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


def _send_on(receiver: Receiver, service: Service, version: str) -> None:
    while True:
        headers, body = receiver.copies.get()
        # What TorchServe answers, or that it does not answer, is in its logs.
        with contextlib.suppress(requests.RequestException, CliError), authenticated_session.session(service) as http:
            http.post(service.at(version), data=body, headers=headers, timeout=LOADING)
        receiver.copies.task_done()
