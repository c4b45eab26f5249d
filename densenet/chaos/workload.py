"""Workload: the requests that clients send, and the answers expected for them."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from urllib3.filepost import encode_multipart_formdata

from densenet.benchmark import images
from densenet.benchmark.plan import LARGE, SMALL
from densenet.chaos.oracle import Expected, alike
from densenet.chaos.sender import ClientRequest, Way, quiet_session
from export.console import CliError
from handler.settings import Settings

_PREDICT = "/predictions/densenet"
_BYTES = {"Content-Type": "application/octet-stream"}
_JSON = {"Content-Type": "application/json"}
_TIMEOUT = 120  # seconds for an answer of an idle service
_TOLERANCE = 1e-4  # of a probability, between the exported network and the eager one


def photos(count: int = 8) -> list[ClientRequest]:
    """Return requests with distinct photos of 500×335 as raw bodies."""
    return [_raw("photo", _encode(images.draw(SMALL, number), "JPEG")) for number in range(count)]


def mixed() -> list[tuple[ClientRequest, int]]:
    """Return the requests of the mixed load, each with its weight in percent."""
    bodies = [request.body for request in photos(4)]
    large = _encode(images.draw(LARGE, 0), "JPEG")
    bomb = _encode(Image.new("1", (8001, 8000)), "PNG")  # a few kilobytes; one pixel column more than allowed
    texts = [base64.b64encode(body).decode() for body in bodies]
    several = {"a": bodies[0], "b": b"no image", "c": bodies[1], "d": bodies[2]}
    v1 = {"instances": [{"b64": text} for text in texts[:2]], "parameters": {"top_k": 3}}
    v2 = {"inputs": [{"name": "photo", "shape": [2], "datatype": "BYTES", "data": texts[2:]}]}
    return [
        *((photo, 4) for photo in photos()),
        (_form("form with options", {"file": bodies[0]}, {"top_k": "3", "min_probability": "0"}), 8),
        (_form("several images, one bad", several, {"top_k": "1"}), 6),
        (_raw("12 megapixels", large), 4),
        (ClientRequest("explanation", "/explanations/densenet", bodies[1], _BYTES), 6),
        (ClientRequest("KServe v1", "/v1/models/densenet:predict", json.dumps(v1).encode(), _JSON), 6),
        (ClientRequest("KServe v2", "/v2/models/densenet/infer", json.dumps(v2).encode(), _JSON), 6),
        (_raw("text", b"this is not an image", 415), 5),
        (_raw("JPEG cut short", bodies[2][: len(bodies[2]) // 2], 422), 5),
        (_raw("64 megapixels", bomb, 413), 3),
        (ClientRequest("bad JSON", _PREDICT, b'{"instances": [', _JSON, 400), 5),
        (ClientRequest("slow upload", _PREDICT, bodies[3], _BYTES, way=Way.SLOWLY), 4),
        (ClientRequest("aborted upload", _PREDICT, large, _BYTES, way=Way.ABORTED), 5),
        (ClientRequest("left before the answer", _PREDICT, bodies[3], _BYTES, way=Way.LEFT), 5),
    ]


def learn(base: str, workload: Sequence[ClientRequest], headers: Mapping[str, str] | None = None) -> list[Expected]:
    """Send each request to the idle service and return its answers as the expected ones.

    Requests that would disconnect early are sent normally here.

    Raises: CliError for an unexpected status.
    """
    expected = []
    with quiet_session() as session:
        for request in workload:
            all_headers = {**request.headers, **(headers or {})}
            answer = session.post(base + request.path, data=request.body, headers=all_headers, timeout=_TIMEOUT)
            if answer.status_code != request.status:
                status = f"status {answer.status_code} instead of {request.status}"
                raise CliError(f"{request.kind}: {status}: {answer.text[:200]}")
            expected.append(Expected(answer.status_code, answer.json()))
    return expected


def check_different(expected: Sequence[Expected]) -> None:
    """Check that all photos have different answers, because otherwise a mix-up would go unnoticed.

    Raises: CliError if two answers are the same.
    """
    for i, answer in enumerate(expected):
        if any(alike(answer.document, other.document) for other in expected[:i]):
            raise CliError("two photos have the same answer; a mix-up of the two could not be detected")


def check_true(
    sample_requests: Sequence[ClientRequest], expected: Sequence[Expected], weights: str, folder: Path
) -> int:
    """Compare the answers to photos with the eager network behind torchvision's transform; return how many.

    weights: a value of `export --weights`.

    Raises: CliError if the service's answer differs.
    """
    from densenet.evaluation import eager  # imports torch and torchvision, which takes seconds and is needed only here

    paths = [folder / f"photo-{number}.jpg" for number in range(len(sample_requests))]
    for path, request in zip(paths, sample_requests, strict=True):
        path.write_bytes(request.body)
    for path, answer, truth in zip(paths, expected, eager.source(weights, None).predict(paths), strict=True):
        rows = answer.document["predictions"]
        ids = tuple(row["class_id"] for row in rows)
        pairs = zip((row["probability"] for row in rows), truth.probabilities, strict=True)
        if ids != truth.classes or any(abs(ours - theirs) > _TOLERANCE for ours, theirs in pairs):
            raise CliError(f"{path.name}: the service answers {ids}, the eager network {truth.classes}")
    return len(paths)


def huge() -> ClientRequest:
    """Return a request with an image of 60 megapixels in 60 kB: the most memory that one image may take."""
    width, height = 10_000, 6_000
    assert width * height <= Settings().max_image_pixels
    return _raw("60 megapixels", _encode(Image.new("RGB", (width, height), "navy"), "PNG"))


def _raw(kind: str, body: bytes, status: int = 200) -> ClientRequest:
    return ClientRequest(kind, _PREDICT, body, _BYTES, status)


def _form(kind: str, files: Mapping[str, bytes], options: Mapping[str, str]) -> ClientRequest:
    fields: dict[str, Any] = {name: (f"{name}.jpg", body, "image/jpeg") for name, body in files.items()}
    body, content_type = encode_multipart_formdata({**fields, **options})
    return ClientRequest(kind, _PREDICT, body, {"Content-Type": content_type})


def _encode(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()
