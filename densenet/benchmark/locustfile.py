"""What locust runs: users who send photos without a pause; what became of each request goes into a file.

Locust's own statistics round times above 100 ms to 10, too coarse for ratios. The job comes by the environment, as the
JSON that load.py writes.
"""

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, events, task
from urllib3.filepost import encode_multipart_formdata

_JOB = json.loads(Path(os.environ["BENCHMARK_JOB"]).read_text())
_OK = 200
_answers: list[tuple[float, float, int, str]] = []
_cpu_seconds = [0.0]


def _request(path: str) -> tuple[bytes, str]:
    """A photo's body and its content type: a form with one file where a part is named, else the bytes alone."""
    content = Path(path).read_bytes()
    if not _JOB["part"]:
        return content, "image/jpeg"
    return encode_multipart_formdata({_JOB["part"]: ("photo.jpg", content, "image/jpeg")})


_requests = itertools.cycle([_request(path) for path in _JOB["photos"]])


class User(FastHttpUser):
    """Sends the next photo as soon as the last one was answered; after a refusal it waits first."""

    host = _JOB["host"]

    @task
    def send(self) -> None:
        """One photo."""
        body, content_type = next(_requests)
        response = self.client.post(_JOB["path"], data=body, headers={"Content-Type": content_type})
        if response.status_code != _OK:
            gevent.sleep(_JOB["wait_after_refusal"])


@events.request.add_listener
def _note(response_time: float, response: Any, exception: object, **_: object) -> None:
    status = getattr(response, "status_code", 0) or 0
    text = "" if status == _OK else str(getattr(response, "text", None) or exception)[:300]
    _answers.append((time.time(), response_time, status, text))


@events.test_start.add_listener
def _begin(**_: object) -> None:
    _cpu_seconds[0] = time.process_time()


@events.quitting.add_listener
def _report(**_: object) -> None:
    seconds = time.process_time() - _cpu_seconds[0]
    Path(_JOB["answers"]).write_text(json.dumps({"cpu_seconds": seconds, "answers": _answers}))
