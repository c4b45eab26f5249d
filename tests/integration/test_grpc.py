"""gRPC, by a stub made of the proto that TorchServe publishes in its own wheel."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
import requests
import torch
from google.protobuf.empty_pb2 import Empty
from torch import nn

from densenet.service.properties import Properties
from export import ROOT
from tests.integration.conftest import Server, same
from tests.integration.truth import PHOTOS, TEXTS, Truth, alike, check, eager_embeddings, preprocessed, truths
from tests.photos import cutouts, encode


@pytest.fixture(scope="module")
def expected(network: nn.Module) -> list[Truth]:
    return truths(network)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModuleType]:
    """Modules by name, generated and imported without a trace for other tests."""
    folder = tmp_path_factory.mktemp("stub")
    spec = find_spec("ts")
    assert spec is not None
    with zipfile.ZipFile(Path(str(spec.origin)).parent / "frontend" / "model-server.jar") as jar:
        jar.extractall(folder / "jar", [name for name in jar.namelist() if name.endswith(".proto")])
    options = ["-I", "jar/proto", "-I", "jar", "--python_out=.", "--grpc_python_out=."]
    command = [sys.executable, "-m", "grpc_tools.protoc", *options, "inference.proto", "google/rpc/status.proto"]
    subprocess.run(command, cwd=folder, check=True)
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        modules = {name: import_module(name) for name in ("inference_pb2", "inference_pb2_grpc")}
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    return modules


class Client:
    """A stub on an open channel, and shorter ways to ask."""

    def __init__(self, channel: grpc.Channel, generated: dict[str, ModuleType]) -> None:
        self.stub = generated["inference_pb2_grpc"].InferenceAPIsServiceStub(channel)
        self._messages = generated["inference_pb2"]

    def request(self, model: str = "densenet", version: str = "", /, **entries: bytes) -> Any:
        return self._messages.PredictionsRequest(model_name=model, model_version=version, input=entries)

    def ask(self, **entries: bytes) -> Any:
        return json.loads(self.stub.Predictions(self.request(**entries), timeout=60).prediction)


@pytest.fixture(scope="module")
def client(server: Server, generated: dict[str, ModuleType]) -> Iterator[Client]:
    with grpc.insecure_channel(address(server)) as channel:
        yield Client(channel, generated)


def address(server: Server) -> str:
    properties = Properties.read(ROOT / "config.properties").on_port(server.service.port)
    return f"127.0.0.1:{properties.values['grpc_inference_port']}"


def documents() -> dict[str, dict[str, Any]]:
    """A JSON request of every protocol."""
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": TEXTS[:2]}
    numbers = {"name": "image", "datatype": "FP32", "shape": [1, 3, 224, 224]}
    return {
        "v1": {"instances": [TEXTS[0], {"image": {"b64": TEXTS[1]}}, "?"], "parameters": {"top_k": 2}},
        "v2": {"id": "42", "inputs": [tensor], "parameters": {"top_k": 2}},
        "v2 numbers": {"inputs": [numbers | {"data": preprocessed(PHOTOS[0]).flatten().tolist()}]},
        "hugging face": {"inputs": TEXTS[0], "parameters": {"top_k": 2, "function_to_apply": "none"}},
    }


def test_ping(client: Client) -> None:
    assert json.loads(client.stub.Ping(Empty(), timeout=60).health) == {"status": "Healthy"}


@pytest.mark.parametrize("name", ["data", "body", "image", "file", "a photo", "사진", "accept", "content-type"])
def test_an_image_under_any_name_is_answered_as_over_rest(
    client: Client, server: Server, expected: list[Truth], name: str
) -> None:
    answer = client.ask(**{name: PHOTOS[0]})
    check(answer, expected[0])
    assert same(answer, server.send(PHOTOS[0]).json())


def test_options_are_entries(client: Client, server: Server, expected: list[Truth]) -> None:
    answer = client.ask(data=PHOTOS[0], top_k=b"2", min_probability=b"0.9999")
    check(answer, expected[0], 2)
    assert answer["recognized"] is False
    rows = client.ask(data=PHOTOS[0], top_k=b"2", format=b"huggingface")
    assert alike(rows, server.send(PHOTOS[0], **{"X-Top-K": "2", "X-Format": "huggingface"}).json())


def test_an_embedding_is_an_option_like_any_other(client: Client, server: Server, network: nn.Module) -> None:
    expected = eager_embeddings(network, preprocessed(PHOTOS[0]).unsqueeze(0))[0]
    answer = client.ask(data=PHOTOS[0], embedding=b"float")
    torch.testing.assert_close(torch.tensor(answer["embedding"]), expected, rtol=0, atol=1e-4)
    headers = {"X-Embedding": "base64", "X-Embedding-Norm": "l2"}
    answer = client.ask(data=PHOTOS[0], embedding=b"base64", embedding_norm=b"l2")
    assert answer["embedding"] == server.send(PHOTOS[0], **headers).json()["embedding"]


def test_several_images_are_answered_each_under_its_name(client: Client, expected: list[Truth]) -> None:
    answer = client.ask(first=PHOTOS[0], second=PHOTOS[1], third=b"\x89 no image", top_k=b"3")
    results = {result["name"]: result for result in answer["results"]}
    assert (answer["success"], results.keys()) == (True, {"first", "second", "third"})
    check(results["first"], expected[0], 3)
    check(results["second"], expected[1], 3)
    assert results["third"]["error"]["code"] == "not_an_image"


@pytest.mark.parametrize("entry", ["data", "body"])
@pytest.mark.parametrize("protocol", documents())
def test_a_document_of_every_protocol_is_answered_as_over_rest(
    client: Client, server: Server, protocol: str, entry: str
) -> None:
    document = documents()[protocol]
    answer = client.ask(**{entry: json.dumps(document).encode()})
    assert alike(answer, server.post(json=document).json())
    assert "error" not in answer


REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "nothing": ({}, "no_image"),
    "an empty entry": ({"data": b""}, "no_image"),
    "text": ({"data": b"text"}, "not_an_image"),
    "a cut photo": ({"body": PHOTOS[0][:4000]}, "broken_image"),
    "a bad option": ({"data": PHOTOS[0], "top_k": b"0"}, "bad_option"),
    "an option that is no text": ({"data": PHOTOS[0], "top_k": b"\xff\0"}, "bad_option"),
    "an unknown format": ({"data": PHOTOS[0], "format": b"xml"}, "bad_option"),
    "an unknown option": ({"data": PHOTOS[0], "topk": b"3"}, "unknown_field"),
    "cut JSON": ({"data": b'{"instances": ['}, "bad_json"),
    "cut JSON of v2": ({"body": b'{"inputs": ['}, "bad_json"),
    "JSON of no protocol": ({"data": b"{}"}, "bad_json"),
    "no instances": ({"data": b'{"instances": []}'}, "bad_json"),
    "no inputs": ({"data": b'{"inputs": []}'}, "bad_json"),
    "a bad image of v2": (
        {"data": b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["?"]}]}'},
        "bad_base64",
    ),
    "a bad image of Hugging Face": ({"data": b'{"inputs": "?"}'}, "bad_base64"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_a_refused_request_is_ok_to_grpc_and_says_so_itself(
    client: Client, server: Server, expected: list[Truth], refused: str
) -> None:
    entries, code = REFUSED[refused]
    workers = server.workers()
    answer = client.ask(**entries)
    assert code in (answer.get("code"), answer["error"]["code"] if "success" in answer else None)
    assert answer.get("success", False) is False
    check(client.ask(data=PHOTOS[0]), expected[0])
    assert server.workers() == workers


@pytest.mark.parametrize(("model", "version"), [("nosuch", ""), ("densenet", "7.0")])
def test_what_is_not_served_is_an_error_of_grpc(client: Client, model: str, version: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        client.stub.Predictions(client.request(model, version, data=PHOTOS[0]), timeout=60)
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "NotFoundException" in raised.value.details()


def test_a_version_may_be_named(client: Client, expected: list[Truth]) -> None:
    answer = client.stub.Predictions(client.request("densenet", "1.0", data=PHOTOS[1]), timeout=60)
    check(json.loads(answer.prediction), expected[1])


def test_a_stream_holds_the_one_answer_and_no_worker_dies_of_it(
    client: Client, server: Server, expected: list[Truth]
) -> None:
    workers = server.workers()
    for photo, truth in zip(PHOTOS, expected, strict=True):
        (answer,) = client.stub.StreamPredictions(client.request(data=photo), timeout=60)
        check(json.loads(answer.prediction), truth)
    (refused,) = client.stub.StreamPredictions(client.request(data=b"text"), timeout=60)
    assert json.loads(refused.prediction)["error"]["code"] == "not_an_image"
    assert server.workers() == workers


def test_a_caller_who_gives_up_hurts_nobody(client: Client, server: Server, expected: list[Truth]) -> None:
    workers = server.workers()
    for call in [client.stub.Predictions.future(client.request(data=photo)) for photo in PHOTOS * 3]:
        call.cancel()
    check(client.ask(data=PHOTOS[0]), expected[0])
    assert server.workers() == workers


def test_metadata_change_nothing(client: Client, expected: list[Truth]) -> None:
    metadata = [
        ("x-top-k", "2"),
        ("x-format", "huggingface"),
        ("content-type", "application/json"),
        ("describe", "True"),
    ]
    answer = client.stub.Predictions(client.request(data=PHOTOS[0]), metadata=metadata, timeout=60)
    check(json.loads(answer.prediction), expected[0])


def test_a_photo_beyond_grpcs_usual_4_mb_passes(client: Client) -> None:
    photo = encode(cutouts(1)[0].resize((2000, 1500)), "BMP")
    assert len(photo) > 8_000_000
    assert client.ask(data=photo)["success"] is True


def test_a_request_over_the_size_limit_is_an_error_of_grpc(client: Client, expected: list[Truth]) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        client.ask(data=bytes(10 * 1024 * 1024 + 1))
    # TorchServe resets the stream as soon as it has seen the length; either end may be the first to say so.
    assert raised.value.code() in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}
    check(client.ask(data=PHOTOS[0]), expected[0])


def test_many_calls_at_once_share_batches_with_rest(
    batching: Server, generated: dict[str, ModuleType], expected: list[Truth]
) -> None:
    with grpc.insecure_channel(address(batching)) as channel, ThreadPoolExecutor(8) as callers:
        client = Client(channel, generated)
        calls = [callers.submit(client.ask, data=photo) for photo in PHOTOS]
        posts = [callers.submit(batching.send, photo) for photo in PHOTOS]
        bad = callers.submit(client.ask, data=b"no image")
        for call, post, truth in zip(calls, posts, expected, strict=True):
            check(call.result(), truth)
            assert same(call.result(), post.result().json())
        assert bad.result()["error"]["code"] == "not_an_image"


def test_the_v2_service_of_grpc_is_not_there(server: Server) -> None:
    with grpc.insecure_channel(address(server)) as channel:
        ready = channel.unary_unary("/org.pytorch.serve.grpc.openinference.GRPCInferenceService/ServerReady")
        with pytest.raises(grpc.RpcError) as raised:
            ready(b"", timeout=60)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert requests.get(f"{server.service.inference}/ping", timeout=60).json() == {"status": "Healthy"}
