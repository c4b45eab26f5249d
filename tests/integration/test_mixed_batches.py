"""Requests of all protocols in one batch, bad ones among them: each is answered as if it had come alone."""

import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import requests

from tests.integration.conftest import Server
from tests.integration.truth import PHOTOS, TEXTS, alike, preprocessed

OCTETS = {"Content-Type": "application/octet-stream"}
BATCH = 8


def binary(photo: bytes) -> dict[str, Any]:
    """Triton's way: the photo after the JSON, and the answer's data likewise."""
    blob = struct.pack("<I", len(photo)) + photo
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(blob)}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return {"data": text + blob, "headers": OCTETS | {"Inference-Header-Content-Length": str(len(text))}}


def document(**content: Any) -> dict[str, Any]:
    # requests' own json= refuses NaN.
    return {"data": json.dumps(content), "headers": {"Content-Type": "application/json"}}


def tensor(datatype: str, shape: list[int], data: list[Any], **more: Any) -> dict[str, Any]:
    return document(inputs=[{"name": "x", "datatype": datatype, "shape": shape, "data": data}], **more)


NUMBERS = preprocessed(PHOTOS[2]).flatten().tolist()
# Arguments of requests.post, by what they are.
GOOD: dict[str, dict[str, Any]] = {
    "raw": {"data": PHOTOS[0], "headers": OCTETS | {"X-Top-K": "1"}},
    "form": {"files": {"file": PHOTOS[1]}},
    "several": {"files": {"a": PHOTOS[0], "b": PHOTOS[2], "c": b"\x89 no image"}, "data": {"top_k": "7"}},
    "v1": document(instances=[{"b64": TEXTS[2]}, "?", NUMBERS], parameters={"min_probability": 0.01}),
    "v2": tensor("BYTES", [2], TEXTS[:2], id="v2", outputs=[{"name": "indices"}, {"name": "recognized"}]),
    "v2 numbers": tensor("FP32", [1, 3, 224, 224], NUMBERS, parameters={"top_k": 3}),
    "v2 binary": binary(PHOTOS[1]),
    "hugging face": document(inputs=TEXTS[0], parameters={"top_k": 2, "function_to_apply": "none"}),
    "hugging face raw": {"data": PHOTOS[2], "headers": OCTETS | {"X-Format": "huggingface"}},
}
BAD: dict[str, dict[str, Any]] = {
    "raw": {"data": PHOTOS[0][:4000], "headers": OCTETS},
    "form": {"data": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    "v1": document(instances=[]),
    "v1 cut": {"data": b'{"instances": [', "headers": {"Content-Type": "application/json"}},
    "v2": tensor("BYTES", [2], [TEXTS[0], "?"], id="bad"),
    "v2 numbers": tensor("FP32", [1, 3, 224, 224], [float("nan"), *NUMBERS[1:]]),
    "v2 that overflows": tensor("FP32", [1, 3, 224, 224], [3e38] * len(NUMBERS)),
    "v2 binary": binary(PHOTOS[1][:4000]),
    "hugging face": document(inputs="?"),
    "hugging face raw": {"data": b"text", "headers": OCTETS | {"X-Format": "huggingface"}},
}
ALL = {f"good {name}": request for name, request in GOOD.items()} | {f"bad {name}": BAD[name] for name in BAD}


def said(response: requests.Response) -> tuple[int, Any, bytes]:
    """Status, JSON, and the binary data after it without its floats, whose last digits may differ."""
    end = int(response.headers.get("Inference-Header-Content-Length", len(response.content)))
    content, blob = json.loads(response.content[:end]), response.content[end:]
    floats = content["outputs"][0]["parameters"]["binary_data_size"] if blob else 0
    return response.status_code, content, blob[floats:]


def ask(server: Server, name: str, together: Barrier | None = None) -> tuple[int, Any, bytes]:
    if together:
        together.wait()
    return said(server.post(**ALL[name]))


@pytest.fixture(scope="module")
def alone(server: Server) -> dict[str, tuple[int, Any, bytes]]:
    """What each is answered by a service that takes one request at a time."""
    return {name: ask(server, name) for name in ALL}


@pytest.fixture(autouse=True)
def _nobody_is_hurt(batching: Server) -> Iterator[None]:
    workers, log = batching.workers(), batching.log()
    yield
    assert batching.workers() == workers
    assert "unexpected failure" not in batching.log()[len(log) :]


def test_the_good_are_answered_and_the_bad_refused(alone: dict[str, tuple[int, Any, bytes]]) -> None:
    for name, (status, _, _) in alone.items():
        assert (status == 200) is name.startswith("good"), name


@pytest.mark.parametrize("shift", range(6))
def test_eight_at_once_are_each_answered_as_alone(
    batching: Server, alone: dict[str, tuple[int, Any, bytes]], shift: int
) -> None:
    names = [list(ALL)[(shift * BATCH + 5 * i) % len(ALL)] for i in range(BATCH)]
    together = Barrier(BATCH)
    with ThreadPoolExecutor(BATCH) as clients:
        answers = clients.map(lambda name: ask(batching, name, together), names)
        for name, (status, content, blob) in zip(names, answers, strict=True):
            assert (status, blob) == (alone[name][0], alone[name][2]), name
            assert alike(content, alone[name][1]), name


def test_a_crowd_is_answered_each_in_its_own_protocol(
    batching: Server, alone: dict[str, tuple[int, Any, bytes]]
) -> None:
    names = [*ALL] * 3
    with ThreadPoolExecutor(16) as clients:
        for name, answer in zip(names, clients.map(lambda name: ask(batching, name), names), strict=True):
            assert alike(list(answer[:2]), list(alone[name][:2])), name
