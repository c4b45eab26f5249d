"""Locust users that send photos without a pause and write every result to a file.

Locust's own statistics round times above 100 ms to 10 ms, too coarse for ratios. BENCHMARK_JOB names the JSON file
with the job, which load.py writes.
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
    """Return a request's body and content type: a form with one file if a part is named, else the photo itself."""
    content = Path(path).read_bytes()
    if not _JOB["part"]:
        return content, "image/jpeg"
    return encode_multipart_formdata({_JOB["part"]: ("photo.jpg", content, "image/jpeg")})


_requests = itertools.cycle([_request(path) for path in _JOB["photos"]])


class User(FastHttpUser):
    """Send the next photo as soon as the last one was answered; wait first after a refusal."""

    host = _JOB["host"]

    @task
    def send(self) -> None:
        """Send one photo."""
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
