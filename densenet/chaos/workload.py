"""Questions: photos and everything else that is sent, and the answers that they are known to have."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from PIL import Image
from urllib3.filepost import encode_multipart_formdata

from densenet.benchmark import images
from densenet.benchmark.plan import LARGE, SMALL
from densenet.chaos.oracle import Known, alike
from densenet.chaos.sender import Question, Way
from export.console import Problem
from handler.settings import Settings

_PREDICT = "/predictions/densenet"
_BYTES = {"Content-Type": "application/octet-stream"}
_JSON = {"Content-Type": "application/json"}
_PATIENCE = 120  # seconds for a quiet answer
_CLOSE = 1e-4  # between two ways of computing the network: one rewritten for serving, one as it was trained


def photos(count: int = 8) -> list[Question]:
    """Different photos of 500×335, as raw bodies."""
    return [_raw("photo", _encode(images.draw(SMALL, number), "JPEG")) for number in range(count)]


def mixed() -> list[tuple[Question, int]]:
    """Everything that clients send, and how often in a hundred."""
    bodies = [question.body for question in photos(4)]
    large = _encode(images.draw(LARGE, 0), "JPEG")
    bomb = _encode(Image.new("1", (8001, 8000)), "PNG")  # a few kilobytes, and a pixel row more than is allowed
    texts = [base64.b64encode(body).decode() for body in bodies]
    several = {"a": bodies[0], "b": b"no image", "c": bodies[1], "d": bodies[2]}
    v1 = {"instances": [{"b64": text} for text in texts[:2]], "parameters": {"top_k": 3}}
    v2 = {"inputs": [{"name": "photo", "shape": [2], "datatype": "BYTES", "data": texts[2:]}]}
    return [
        *((photo, 4) for photo in photos()),
        (_form("form with options", {"file": bodies[0]}, {"top_k": "3", "min_probability": "0"}), 8),
        (_form("several images, one bad", several, {"top_k": "1"}), 6),
        (_raw("12 megapixels", large), 4),
        (Question("explanation", "/explanations/densenet", bodies[1], _BYTES), 6),
        (Question("KServe v1", "/v1/models/densenet:predict", json.dumps(v1).encode(), _JSON), 6),
        (Question("KServe v2", "/v2/models/densenet/infer", json.dumps(v2).encode(), _JSON), 6),
        (_raw("text", b"this is no picture", 415), 5),
        (_raw("JPEG cut short", bodies[2][: len(bodies[2]) // 2], 422), 5),
        (_raw("64 megapixels", bomb, 413), 3),
        (Question("bad JSON", _PREDICT, b'{"instances": [', _JSON, 400), 5),
        (Question("slow upload", _PREDICT, bodies[3], _BYTES, way=Way.SLOWLY), 4),
        (Question("aborted upload", _PREDICT, large, _BYTES, way=Way.ABORTED), 5),
        (Question("left before the answer", _PREDICT, bodies[3], _BYTES, way=Way.LEFT), 5),
    ]


def learn(base: str, questions: Sequence[Question], headers: Mapping[str, str] | None = None) -> list[Known]:
    """What each question is answered while nothing else is asked. Raises Problem for a status that is not due.

    Those who do not wait for an answer are asked here in a way that does.
    """
    known = []
    with quiet_session() as session:
        for one in questions:
            sent = {**one.headers, **(headers or {})}
            answer = session.post(base + one.path, data=one.body, headers=sent, timeout=_PATIENCE)
            if answer.status_code != one.status:
                raise Problem(f"{one.kind}: {answer.status_code} where {one.status} is due: {answer.text[:200]}")
            known.append(Known(answer.status_code, answer.json()))
    return known


def check_different(known: Sequence[Known]) -> None:
    """Raises Problem where two photos have the same answer: mixing them up would go unnoticed."""
    for i, one in enumerate(known):
        if any(alike(one.document, other.document) for other in known[:i]):
            raise Problem("two photos have the same answer; a mix-up of the two could not be seen")


def check_true(asked: Sequence[Question], known: Sequence[Known], weights: str, folder: Path) -> int:
    """Compares answers to photos with the eager network behind torchvision's transform. The number of photos.

    weights: as export takes them. Raises Problem where the service says something else.
    """
    from densenet.evaluation import eager  # torch and torchvision: seconds that only this costs

    paths = [folder / f"photo-{number}.jpg" for number in range(len(asked))]
    for path, question in zip(paths, asked, strict=True):
        path.write_bytes(question.body)
    for path, one, truth in zip(paths, known, eager.source(weights, None).ask(paths), strict=True):
        rows = one.document["predictions"]
        ids = tuple(row["class_id"] for row in rows)
        pairs = zip((row["probability"] for row in rows), truth.probabilities, strict=True)
        if ids != truth.classes or any(abs(ours - theirs) > _CLOSE for ours, theirs in pairs):
            raise Problem(f"the service says {ids} of {path.name}, the eager network {truth.classes}")
    return len(paths)


def huge() -> Question:
    """A picture of 60 megapixels in a file of 60 kB: the most memory that one image may take."""
    width, height = 10_000, 6_000
    assert width * height <= Settings().max_image_pixels
    return _raw("60 megapixels", _encode(Image.new("RGB", (width, height), "navy"), "PNG"))


def quiet_session() -> requests.Session:
    """A session that asks no proxy of the environment."""
    session = requests.Session()
    session.trust_env = False
    return session


def _raw(kind: str, body: bytes, status: int = 200) -> Question:
    return Question(kind, _PREDICT, body, _BYTES, status)


def _form(kind: str, files: Mapping[str, bytes], options: Mapping[str, str]) -> Question:
    fields: dict[str, Any] = {name: (f"{name}.jpg", body, "image/jpeg") for name, body in files.items()}
    body, content_type = encode_multipart_formdata({**fields, **options})
    return Question(kind, _PREDICT, body, {"Content-Type": content_type})


def _encode(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()
