"""Where TorchServe's own routes fall short of what the protocols' clients expect; the documentation says so, too."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests
import tritonclient.http as triton
from kserve import InferenceRESTClient, RESTConfig
from tritonclient.utils import InferenceServerException

from densenet.polling import wait_until
from tests.integration.conftest import Server
from tests.integration.truth import TEXTS
from tests.photos import cutouts, encode

PHOTO = encode(cutouts(1)[0])
V1 = {"instances": TEXTS[:1]}
V2 = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": TEXTS[:1]}]}


@pytest.mark.parametrize(
    "route",
    [
        "/v1/models",
        "/v1/models/densenet",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/densenet",
        "/v2/models/densenet/ready",
        "/v2/models/densenet/config",
        "/v2/models/densenet/versions/1.0",
    ],
)
def test_what_the_protocols_tell_of_models_is_not_found(server: Server, route: str) -> None:
    assert requests.get(server.service.inference + route, timeout=60).status_code == 404


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/models/densenet/versions/1.0:predict", V1),
        ("/v2/models/densenet/versions/1.0/infer", V2),
        ("/v1/models/nosuch:predict", V1),
        ("/v2/models/nosuch/infer", V2),
    ],
)
def test_versions_and_unknown_models_are_refused_in_torchserves_own_words(
    server: Server, route: str, body: dict[str, Any]
) -> None:
    answer = requests.post(server.service.inference + route, json=body, timeout=60)
    assert (answer.status_code, answer.json().keys()) == (404, {"code", "type", "message"})


def test_a_version_can_be_had_at_torchserves_own_address(server: Server) -> None:
    for body, answered in ((V1, "predictions"), (V2, "outputs")):
        assert answered in requests.post(f"{server.url}/1.0", json=body, timeout=60).json()


def test_the_management_address_says_ready_of_v1(server: Server) -> None:
    answer = requests.get(f"{server.service.management}/v1/models/densenet", timeout=60)
    assert (answer.status_code, answer.json()) == (200, {"name": "densenet", "ready": True})


def test_triton_takes_the_service_for_not_ready(server: Server) -> None:
    with triton.InferenceServerClient(server.service.inference.removeprefix("http://")) as client:
        assert client.is_server_live() is False
        assert client.is_server_ready() is False
        assert client.is_model_ready("densenet") is False
        for ask in (client.get_server_metadata, lambda: client.get_model_metadata("densenet")):
            with pytest.raises(InferenceServerException) as raised:
                ask()
            assert raised.value.status() == "404"


@pytest.mark.parametrize(
    ("protocol", "ask"),
    [
        ("v1", lambda client, url: client.is_server_live(url)),
        ("v1", lambda client, url: client.is_model_ready(url, "densenet")),
        ("v2", lambda client, url: client.is_server_live(url)),
        ("v2", lambda client, url: client.is_server_ready(url)),
    ],
)
def test_kserves_client_cannot_ask_either(server: Server, protocol: str, ask: Callable[..., Any]) -> None:
    async def run() -> None:
        async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
            await ask(client, server.service.inference)

    with pytest.raises(httpx.HTTPStatusError) as raised:
        asyncio.run(run())
    assert raised.value.response.status_code in {404, 405}


def test_what_the_worker_measures_reaches_the_metrics_port(server: Server) -> None:
    """The handler drops TorchServe's other line a request, and these are log lines, too."""
    assert server.send(PHOTO).ok
    port = server.service.port
    address = server.service.inference.replace(str(port), str(port + 2)) + "/metrics"
    assert wait_until(lambda: "\nPredictionTime{" in requests.get(address, timeout=60).text, 60, 0.2)
