"""KServe's v1 protocol, by KServe's own client and by plain HTTP."""

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from kserve import InferenceRESTClient, RESTConfig
from torch import nn

from tests.integration.conftest import Server, same
from tests.integration.truth import PHOTOS, TEXTS, Truth, check, preprocessed, truths

SPELLINGS: dict[str, Callable[[int], object]] = {
    "b64": lambda i: {"b64": TEXTS[i]},
    "image b64": lambda i: {"image": {"b64": TEXTS[i]}},
    "image_bytes b64": lambda i: {"image_bytes": {"b64": TEXTS[i]}},
    "data": lambda i: {"data": TEXTS[i]},
    "text alone": lambda i: TEXTS[i],
    "data URL": lambda i: {"image": f"data:image/jpeg;base64,{TEXTS[i]}"},
    "nested numbers": lambda i: preprocessed(PHOTOS[i]).tolist(),
    "numbers under a name": lambda i: {"image": preprocessed(PHOTOS[i]).tolist()},
    "flat numbers": lambda i: preprocessed(PHOTOS[i]).flatten().tolist(),
}


@pytest.fixture(scope="module")
def expected(network: nn.Module) -> list[Truth]:
    return truths(network)


def infer(server: Server, *instances: object, **parameters: object) -> Any:
    """By KServe's client."""

    async def ask() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
            document = {"instances": list(instances), "parameters": parameters}
            return await client.infer(server.service.inference, document, model_name="densenet")

    return asyncio.run(ask())


def address(server: Server) -> str:
    return f"{server.service.inference}/v1/models/densenet:predict"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_kserves_client_is_answered_however_it_spells_an_instance(
    server: Server, expected: list[Truth], spelling: str
) -> None:
    answer = infer(server, SPELLINGS[spelling](1), SPELLINGS[spelling](0))
    assert answer.keys() == {"predictions"}
    check(answer["predictions"][0], expected[1])
    check(answer["predictions"][1], expected[0])


def test_all_spellings_go_together_in_one_request(server: Server, expected: list[Truth]) -> None:
    instances = [spell(i % 3) for i, spell in enumerate(SPELLINGS.values())]
    results = infer(server, *instances, top_k=2)["predictions"]
    assert len(results) == len(SPELLINGS)
    for i, result in enumerate(results):
        check(result, expected[i % 3], 2)


def test_parameters_say_how_many_classes_and_what_counts_as_recognized(server: Server, expected: list[Truth]) -> None:
    best = expected[0].probabilities[0]
    for least, recognized in ((best - 1e-3, True), (best + 1e-3, False)):
        (result,) = infer(server, TEXTS[0], top_k=1000, min_probability=least)["predictions"]
        check(result, expected[0], 1000)
        assert result["recognized"] is recognized


def test_a_bad_instance_is_an_error_in_its_place(server: Server, expected: list[Truth]) -> None:
    wrong = preprocessed(PHOTOS[0])[:, 1:].tolist()
    instances = [TEXTS[0], {"b64": "?"}, {"b64": TEXTS[1]}, wrong, 7, {"b64": ""}, {"b64": TEXTS[0][:4000]}]
    results = infer(server, *instances)["predictions"]
    codes = [result.get("error", {}).get("code") for result in results]
    assert codes == [None, "bad_base64", None, "bad_tensor", "bad_json", "no_image", "broken_image"]
    check(results[0], expected[0])
    check(results[2], expected[1])
    assert "not valid base64" in results[1]["error"]["message"]


def test_an_image_of_the_clients_own_choosing_reaches_the_network_unchanged(
    server: Server, expected: list[Truth]
) -> None:
    by_bytes, by_numbers = infer(server, TEXTS[2], preprocessed(PHOTOS[2]).tolist())["predictions"]
    assert same(by_bytes, by_numbers)
    check(by_numbers, expected[2])


@pytest.mark.parametrize(
    ("instances", "parameters", "status", "said"),
    [
        ([], {}, 400, "must be a list with one entry per image"),
        ([TEXTS[0]], {"top_k": 0}, 400, "top_k must be a whole number from 1 to 1000, not 0"),
        ([TEXTS[0]], {"topk": 3}, 400, "unknown parameter 'topk'; valid parameters: top_k, min_probability"),
        (["QUJD"] * 17, {}, 413, "the request has 17 images; send at most 16 per request"),
    ],
)
def test_kserves_client_raises_our_words(
    server: Server, instances: list[object], parameters: dict[str, object], status: int, said: str
) -> None:
    with pytest.raises(httpx.HTTPStatusError, match=said) as raised:
        infer(server, *instances, **parameters)
    assert raised.value.response.status_code == status


def test_tensorflow_servings_own_field_is_no_hindrance(server: Server, expected: list[Truth]) -> None:
    body = {"signature_name": "serving_default", "instances": [{"image_bytes": {"b64": TEXTS[0]}}]}
    (result,) = requests.post(address(server), json=body, timeout=60).json()["predictions"]
    check(result, expected[0])


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "text/plain", None])
def test_the_content_type_does_not_matter(server: Server, content_type: str | None) -> None:
    body = json.dumps({"instances": [TEXTS[0]]}).encode()
    headers = {"Content-Type": content_type} if content_type else {}
    (result,) = requests.post(address(server), data=body, headers=headers, timeout=60).json()["predictions"]
    assert same(result, server.send(PHOTOS[0]).json())


def test_the_same_request_may_go_to_any_address(server: Server) -> None:
    routes = (
        "/predictions/densenet",
        "/predictions/densenet/1.0",
        "/v2/models/densenet/infer",
        "/models/densenet/invoke",
    )
    expected = requests.post(address(server), json={"instances": TEXTS}, timeout=60).json()["predictions"]
    for route in routes:
        answer = requests.post(server.service.inference + route, json={"instances": TEXTS}, timeout=60).json()
        assert all(same(one, other) for one, other in zip(answer["predictions"], expected, strict=True))


def test_curl(server: Server, expected: list[Truth], tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(PHOTOS[1])
    document = r"{\"instances\": [{\"b64\": \"$(base64 -w0 cat.jpg)\"}], \"parameters\": {\"top_k\": 3}}"
    line = f"""echo "{document}" | curl -s -H 'Content-Type: application/json' -d @- {address(server)}"""
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
    check(json.loads(done.stdout)["predictions"][0], expected[1], 3)
