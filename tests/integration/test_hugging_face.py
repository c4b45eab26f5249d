"""Hugging Face's image classification task, by its own client and by plain HTTP."""

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from huggingface_hub import ImageClassificationOutputElement, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from torch import nn

from tests.integration.conftest import Server
from tests.integration.truth import PHOTOS, TEXTS, Truth, close, truths

FUNCTIONS: dict[str | None, Callable[[Truth], list[float]]] = {
    None: lambda truth: truth.probabilities,
    "softmax": lambda truth: truth.probabilities,
    "sigmoid": lambda truth: [1 / (1 + math.exp(-logit)) for logit in truth.logits],
    "none": lambda truth: truth.logits,
}


@pytest.fixture(scope="module")
def expected(network: nn.Module) -> list[Truth]:
    return truths(network)


@pytest.fixture(scope="module")
def client(server: Server) -> InferenceClient:
    # A token of the machine's own must not be sent; without one the client asks for it.
    return InferenceClient(model=invoke(server), token="none", timeout=60)


def invoke(server: Server, **options: object) -> str:
    """The address whose query TorchServe hands to handlers."""
    query = "".join(f"&{name}={value}" for name, value in options.items())
    return f"{server.service.inference}/models/densenet/invoke?format=huggingface{query}"


def check(rows: list[Any], truth: Truth, count: int = 5, function: str | None = None) -> None:
    pairs = [(row["label"], row["score"]) for row in rows]
    assert [label for label, _ in pairs] == truth.labels[:count]
    # Logits are larger than probabilities, and so is what two ways of computing them differ by.
    assert [score for _, score in pairs] == pytest.approx(FUNCTIONS[function](truth)[:count], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("top_k", [None, 1, 10])
@pytest.mark.parametrize("as_path", [True, False])
def test_the_client_is_answered_for_a_path_and_for_bytes(
    client: InferenceClient, expected: list[Truth], tmp_path: Path, as_path: bool, top_k: int | None, function: Any
) -> None:
    (tmp_path / "cat.jpg").write_bytes(PHOTOS[1])
    photo = tmp_path / "cat.jpg" if as_path else PHOTOS[1]
    rows = client.image_classification(photo, top_k=top_k, function_to_apply=function)
    assert all(isinstance(row, ImageClassificationOutputElement) for row in rows)
    check(rows, expected[1], top_k or 5, function)


def test_the_clients_path_may_be_text(client: InferenceClient, expected: list[Truth], tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(PHOTOS[1])
    check(client.image_classification(str(tmp_path / "cat.jpg")), expected[1])


@pytest.mark.parametrize(
    ("photo", "parameters", "status", "message"),
    [
        (b"\x89 no image", {}, 415, "the image format is unknown"),
        (b"\x89 no image", {"top_k": 3}, 415, "the image format is unknown"),
        (b"plain text", {}, 415, "this is text, not an image"),
        (PHOTOS[0][:4000], {}, 422, "the JPEG file is damaged"),
        (PHOTOS[0], {"top_k": 1001}, 400, "top_k must be a whole number from 1 to 1000, not 1001"),
        (PHOTOS[0], {"function_to_apply": "relu"}, 400, "function_to_apply must be one of softmax, sigmoid and none"),
        (b"", {}, 400, "no image was sent"),
        (b"", {"top_k": 3}, 400, "this entry is empty"),
    ],
)
def test_the_clients_exception_carries_our_words(
    client: InferenceClient, photo: bytes, parameters: dict[str, Any], status: int, message: str
) -> None:
    with pytest.raises(HfHubHTTPError) as raised:
        client.image_classification(photo, **parameters)
    assert raised.value.response.status_code == status
    assert message in str(raised.value)


@pytest.mark.parametrize("route", ["/predictions/densenet", "/v2/models/densenet/infer", "/models/densenet/invoke"])
def test_json_says_itself_what_it_is_at_any_address(server: Server, expected: list[Truth], route: str) -> None:
    for i in range(3):
        body = {"inputs": TEXTS[i], "parameters": {"top_k": 3, "function_to_apply": "sigmoid"}}
        answer = requests.post(server.service.inference + route, json=body, timeout=60)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        check(answer.json(), expected[i], 3, "sigmoid")


@pytest.mark.parametrize("name", ["X-Format", "x-format"])
def test_bytes_with_the_formats_header(server: Server, expected: list[Truth], name: str) -> None:
    check(server.send(PHOTOS[0], **{name: "huggingface", "X-Top-K": "2"}).json(), expected[0], 2)


def test_bytes_with_options_in_the_query(server: Server, expected: list[Truth]) -> None:
    headers = {"Content-Type": "image/jpeg"}
    check(requests.post(invoke(server, top_k=2), data=PHOTOS[0], headers=headers, timeout=60).json(), expected[0], 2)


def test_a_form_with_the_format_as_a_field(server: Server, expected: list[Truth]) -> None:
    answer = server.post(files={"file": PHOTOS[0]}, data={"format": "huggingface", "top_k": "2"})
    check(answer.json(), expected[0], 2)


def test_all_scores_of_softmax_sum_to_one(server: Server, expected: list[Truth]) -> None:
    rows = server.post(json={"inputs": TEXTS[0], "parameters": {"top_k": 1000}}).json()
    check(rows, expected[0], 1000)
    assert sum(row["score"] for row in rows) == close(1)


def test_curl(server: Server, expected: list[Truth], tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(PHOTOS[1])
    command = ["curl", "-s", "-T", "cat.jpg", "-H", "X-Format: huggingface", "-H", "X-Top-K: 2", server.url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    check(json.loads(done.stdout), expected[1], 2)
