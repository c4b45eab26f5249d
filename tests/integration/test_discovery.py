"""What clients ask the gateway before their first inference, as the clients of KServe and Triton ask it."""

import asyncio
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from kserve import InferenceRESTClient, RESTConfig
from tritonclient.utils import InferenceServerException

from tests.integration.conftest import Server
from tests.integration.gateways import Gateway, Opener, error, open_gateway, wants_nginx
from tests.photos import cutouts, encode

__all__ = ["open_gateway"]
pytestmark = wants_nginx

PHOTO = encode(cutouts(1)[0])
BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ORIGIN = "https://photos.example.org"
ADDRESSES = (
    "/",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/densenet",
    "/v2/models/densenet/ready",
    "/v2/models/densenet/versions/1.0",
    "/v2/models/densenet/versions/1.0/ready",
    "/v1/models",
    "/v1/models/densenet",
)


@pytest.fixture(scope="module")
def gateway(open_gateway: Opener, server: Server) -> Gateway:
    options = ("--rate", "1000", "--burst", "1000", "--cors", ORIGIN)
    return open_gateway(*options, upstreams=(server.service.inference,), tls=False)


def test_tritons_client_finds_the_model(gateway: Gateway) -> None:
    with triton.InferenceServerClient(f"localhost:{gateway.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("densenet")
        assert client.is_model_ready("densenet", "1.0")
        assert not client.is_model_ready("densenet", "7.0")
        assert client.get_server_metadata()["extensions"] == ["classification", "binary_tensor_data"]
        metadata = client.get_model_metadata("densenet")
        assert client.get_model_metadata("densenet", "1.0") == metadata
        with pytest.raises(InferenceServerException):
            client.get_model_metadata("resnet")
        # An inference made of nothing but the metadata.
        (described,) = metadata["inputs"]
        image = triton.InferInput(described["name"], [1], described["datatype"])
        image.set_data_from_numpy(np.array([PHOTO], dtype=object))
        key = {"X-API-Key": gateway.key}
        outputs = [triton.InferRequestedOutput(output["name"]) for output in metadata["outputs"]]
        (version,) = metadata["versions"]
        answer = client.infer("densenet", [image], version, outputs=outputs, headers=key)
    for output in metadata["outputs"]:
        assert answer.get_output(output["name"])["datatype"] == output["datatype"]
        assert answer.as_numpy(output["name"]).ndim == len(output["shape"])


def test_kserves_client_finds_the_model(gateway: Gateway) -> None:
    base = f"http://localhost:{gateway.port}"

    async def ask(protocol: str) -> list[Any]:
        client = InferenceRESTClient(RESTConfig(protocol=protocol, retries=1))
        try:
            found: list[Any] = [await client.is_server_live(base), await client.is_model_ready(base, "densenet")]
            return found + ([await client.is_server_ready(base)] if protocol == "v2" else [])
        finally:
            await client.close()

    assert asyncio.run(ask("v1")) == [True, True]
    assert asyncio.run(ask("v2")) == [True, True, True]


@pytest.mark.parametrize("address", ADDRESSES)
def test_they_need_no_key_are_json_and_only_read(gateway: Gateway, address: str) -> None:
    answer = gateway.ask("GET", address, key=None)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert isinstance(answer.json(), dict)
    head = gateway.ask("HEAD", address, key=None)
    assert (head.status_code, head.content) == (200, b"")
    assert error(gateway.ask("POST", address, json={})) == (405, "method_not_allowed")


def test_a_version_in_the_address_is_asked(gateway: Gateway) -> None:
    body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["?"]}]}
    answer = gateway.ask("POST", "/v2/models/densenet/versions/1.0/infer", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_base64")
    assert gateway.ask("POST", "/v2/models/densenet/versions/7.0/infer", json=body).status_code == 404
    assert gateway.ask("GET", "/v2/models/densenet/versions/7.0", key=None).status_code == 404
    assert gateway.ask("POST", "/v2/models/densenet/versions/1.0/infer", key=None, json=body).status_code == 401


def test_a_browser_goes_from_the_root_to_the_page(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/", key=None, headers={"Accept": BROWSER})
    assert [step.status_code for step in answer.history] == [302]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_pages_of_a_named_origin_may_ask_and_no_others(gateway: Gateway) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    before = gateway.ask("OPTIONS", "/predictions/densenet", key=None, headers=asked)
    assert before.status_code == 204
    assert before.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in before.headers["access-control-allow-methods"]
    assert {"Authorization", "x-top-k"} <= set(before.headers["access-control-allow-headers"].split(", "))
    for answer in (
        gateway.predict(PHOTO, headers={"Origin": ORIGIN}),
        gateway.predict(b"", headers={"Origin": ORIGIN}),
    ):
        assert (answer.headers["access-control-allow-origin"], answer.headers["vary"]) == (ORIGIN, "Origin")
    refused = gateway.predict(PHOTO, key=None, headers={"Origin": ORIGIN})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)
    other = gateway.ask("OPTIONS", "/predictions/densenet", key=None, headers=asked | {"Origin": f"{ORIGIN}.evil.org"})
    assert not [name for name in other.headers if name.lower().startswith("access-control")]


def test_a_trace_goes_through_and_comes_back(gateway: Gateway, server: Server) -> None:
    answer = gateway.predict(PHOTO, headers={"traceparent": TRACE})
    assert answer.headers["traceparent"] == TRACE
    gateway.wait(lambda: gateway.log()[-1]["traceparent"] == TRACE)
    for sent, returned in ((TRACE, TRACE), (TRACE.upper(), None), (f"{TRACE}-x", None), ("ff" + TRACE[2:], None)):
        direct = requests.put(server.url, data=PHOTO, headers={"traceparent": sent}, timeout=60)
        assert direct.headers.get("traceparent") == returned
