"""Explanations by a real TorchServe: against hooks on the eager network, and against pictures with one object in a
known place."""

import asyncio
import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx
import numpy as np
import pytest
import requests
import torch
from densenet_client import Client
from kserve import InferenceRESTClient, RESTConfig
from PIL import Image
from torch import nn

from export import bundle, weights
from handler import cropping
from tests import discs
from tests.integration.conftest import Server, Starter, same
from tests.integration.truth import CLASSES, PHOTOS, TEXTS, alike, eager_maps, preprocessed
from tests.photos import encode, photos

OCTETS = {"Content-Type": "application/octet-stream"}
BATCH = 8


def ask(server: Server, photo: bytes, **options: str) -> dict[str, Any]:
    answer: dict[str, Any] = ask_for(server, photo, **options).json()
    return answer


def ask_for(server: Server, photo: bytes, *, accept: str = "*/*", **options: str) -> requests.Response:
    headers = OCTETS | {"Accept": accept} | {f"X-{name}": value for name, value in options.items()}
    return requests.post(server.explaining, data=photo, headers=headers, timeout=60)


def picture(text: str) -> Image.Image:
    read = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    assert (read.format, read.mode) == ("PNG", "RGB")
    return read


def near(maps: Any, expected: torch.Tensor) -> bool:
    """Whether maps are as two ways of computing the network may differ."""
    return bool((torch.tensor(maps) - expected).abs().max() < 1e-4 * expected.std())


@pytest.fixture(scope="module")
def maps(network: nn.Module) -> torch.Tensor:
    """Of the photos, by the eager network."""
    return eager_maps(network, torch.stack([preprocessed(photo) for photo in PHOTOS]))


class TestMaps:
    """What is said equals what the eager network saw."""

    def test_of_the_best_class_unless_told_otherwise(self, server: Server, maps: torch.Tensor) -> None:
        for photo, expected in zip(PHOTOS, maps, strict=True):
            answer = ask(server, photo)
            (only,) = answer["explanations"]
            assert only["class_id"] == answer["class_id"]
            assert near(only["map"], expected[CLASSES.ids.index(answer["class_id"])])

    def test_of_any_class(self, server: Server, maps: torch.Tensor) -> None:
        targets = [0, 134, 281, 517, 999]
        answer = ask(server, PHOTOS[1], Target=",".join(map(str, targets)), Overlays="none")
        assert [row["class_id"] for row in answer["explanations"]] == [CLASSES.ids[target] for target in targets]
        assert near([row["map"] for row in answer["explanations"]], maps[1, targets])

    def test_their_mean_and_the_bias_are_the_logit_behind_the_probability(
        self, server: Server, network: nn.Module
    ) -> None:
        answer = ask(server, PHOTOS[2], Target="7,n02124075,Tench", Overlays="none")
        with torch.no_grad():
            logits = network(preprocessed(PHOTOS[2]).unsqueeze(0))[0]
        for row in answer["explanations"]:
            index = CLASSES.ids.index(row["class_id"])
            assert np.mean(row["map"]) + row["bias"] == pytest.approx(row["logit"], abs=1e-5)
            assert row["bias"] == pytest.approx(network.get_submodule("classifier").get_parameter("bias")[index].item())
            assert row["logit"] == pytest.approx(logits[index].item(), abs=1e-4)
            assert row["probability"] == pytest.approx(torch.softmax(logits, 0)[index].item(), abs=1e-5)
            assert row["label"] == CLASSES.names[index]

    def test_the_rest_of_the_answer_is_that_of_a_prediction(self, server: Server) -> None:
        answer = ask(server, PHOTOS[0], **{"Top-K": "7", "Min-Probability": "1"})
        del answer["explanations"], answer["crop"]
        assert answer == server.send(PHOTOS[0], **{"X-Top-K": "7", "X-Min-Probability": "1"}).json()

    def test_of_a_preprocessed_image_there_is_no_picture(self, server: Server, maps: torch.Tensor) -> None:
        instances = [preprocessed(PHOTOS[0]).tolist(), TEXTS[0]]
        body = {"instances": instances, "parameters": {"target": [281]}}
        by_numbers, by_bytes = requests.post(server.explaining, json=body, timeout=60).json()["explanations"]
        assert "crop" in by_bytes
        assert by_numbers.keys() == {"success", "explanations"}
        assert not {"overlay", "picture"} & by_numbers["explanations"][0].keys()
        assert near(by_numbers["explanations"][0]["map"], maps[0, 281])


@pytest.fixture(scope="module")
def seeing_discs(start: Starter, network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A service whose classes are the colours of discs."""
    folder = tmp_path_factory.mktemp("discs")
    torch.save(discs.make_disc_network(network).state_dict(), folder / "discs.pth")
    (folder / "classes.json").write_text(json.dumps(discs.CLASSES))
    bundle.make(weights.load(str(folder / "discs.pth")), folder / "classes.json").write(folder / "export")
    return start(workers=1, export=folder / "export")


LANDSCAPE, PORTRAIT = (450, 300), (300, 450)
CORNERS = [(0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8)]
# EXIF orientations, and how a photo lies that each of them sets upright.
TURNS = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
    5: Image.Transpose.TRANSPOSE,
}


def with_disc(size: tuple[int, int], colour: str, corner: tuple[float, float]) -> Image.Image:
    """A photo with a disc in a corner of what the network sees of it."""
    left, top, right, bottom = cropping.crop_box(*size)
    x, y = (left + corner[0] * (right - left)) / size[0], (top + corner[1] * (bottom - top)) / size[1]
    return discs.disc(photos()[3].resize(size), colour, x, y, 0.11)


def hottest(shown: Image.Image, plain: Image.Image) -> tuple[float, float]:
    """Where a picture with heat on it differs most from the one without, in fractions of width and height."""
    small = [np.asarray(image.resize((56, 56), Image.Resampling.BOX), dtype=int) for image in (shown, plain)]
    y, x = np.unravel_index(np.abs(small[0] - small[1]).sum(axis=2).argmax(), (56, 56))
    return (x + 0.5) / 56, (y + 0.5) / 56


def check_place(answer: dict[str, Any], photo: Image.Image, corner: tuple[float, float]) -> None:
    """Map, overlay and picture of the only explanation all say that it was in this corner of the crop."""
    (only,) = answer["explanations"]
    places = np.array(only["map"])
    row, column = np.unravel_index(places.argmax(), places.shape)
    assert ((column + 0.5) / 7, (row + 0.5) / 7) == pytest.approx(corner, abs=0.11)
    assert hottest(picture(only["overlay"]), cropping.crop(photo)) == pytest.approx(corner, abs=0.11)
    whole = picture(only["picture"])
    box = [round(side * whole.size[i % 2]) for i, side in enumerate(answer["crop"])]
    assert hottest(whole.crop(box), cropping.crop(photo)) == pytest.approx(corner, abs=0.11)


class TestCorners:
    """One object in one corner: there it was seen."""

    @pytest.mark.parametrize("corner", CORNERS)
    @pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, (300, 300), (1200, 200), (4500, 3000)])
    @pytest.mark.parametrize("colour", discs.COLOURS)
    def test_an_object_is_seen_where_it_is(
        self, seeing_discs: Server, corner: tuple[float, float], size: tuple[int, int], colour: str
    ) -> None:
        photo = with_disc(size, colour, corner)
        answer = ask(seeing_discs, encode(photo, quality=95))
        assert (answer["class_name"], answer["explanations"][0]["label"]) == (colour, colour)
        check_place(answer, photo, corner)
        box = cropping.crop_box(*size)
        assert answer["crop"] == pytest.approx([side / size[i % 2] for i, side in enumerate(box)], abs=2e-3)

    @pytest.mark.parametrize("corner", CORNERS)
    @pytest.mark.parametrize("orientation", TURNS)
    @pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT])
    def test_a_photo_that_lies_on_its_side_is_explained_upright(
        self, seeing_discs: Server, corner: tuple[float, float], orientation: int, size: tuple[int, int]
    ) -> None:
        photo = with_disc(size, "red", corner)
        exif = Image.Exif()
        exif[0x0112] = orientation
        answer = ask(seeing_discs, encode(photo.transpose(TURNS[orientation]), quality=95, exif=exif))
        assert picture(answer["explanations"][0]["picture"]).size == size
        check_place(answer, photo, corner)

    def test_of_two_objects_each_is_seen_where_it_is(self, seeing_discs: Server) -> None:
        red = with_disc(LANDSCAPE, "red", CORNERS[0])
        both = with_disc(LANDSCAPE, "blue", CORNERS[3])
        both.paste(red.crop((0, 0, 225, 300)), (0, 0))
        answer = ask(seeing_discs, encode(both, quality=95), Target="RED, c-blue")
        for i, corner in ((0, CORNERS[0]), (1, CORNERS[3])):
            check_place(answer | {"explanations": [answer["explanations"][i]]}, both, corner)

    def test_a_class_of_the_models_own_is_named_in_any_way(self, seeing_discs: Server) -> None:
        photo = encode(with_disc(PORTRAIT, "red", CORNERS[1]))
        named = [ask(seeing_discs, photo, Target=target, Overlays="none") for target in ("c-red", "Red", "0")]
        assert named[0] == named[1] == named[2]
        refused = ask(seeing_discs, photo, Target="n02124075")
        assert refused["error"]["code"] == "bad_option"

    def test_a_name_may_be_in_any_script(self, seeing_discs: Server) -> None:
        photo = encode(with_disc(PORTRAIT, "red", CORNERS[1]))
        data = {"target": "없음", "overlays": "none"}
        by_form = requests.post(seeing_discs.explaining, files={"file": photo}, data=data, timeout=60).json()
        assert [row["class_id"] for row in by_form["explanations"]] == ["없음"]
        with Client(seeing_discs.url) as client:
            by_client = client.explain(photo, target=["없음", "red"], overlays="none").explanations
        assert [row.class_id for row in by_client] == ["없음", "c-red"]


class TestPictures:
    """PNGs, inside of JSON and instead of it."""

    def test_a_png_alone_is_the_one_in_the_json(self, server: Server) -> None:
        (only,) = ask(server, PHOTOS[0], Target="7")["explanations"]
        for options, key in (({}, "overlay"), ({"Overlays": "crop"}, "overlay"), ({"Overlays": "picture"}, "picture")):
            response = ask_for(server, PHOTOS[0], accept="image/png", Target="7,tench", **options)
            assert (response.status_code, response.headers["Content-Type"]) == (200, "image/png")
            assert response.content == base64.b64decode(only[key])

    def test_the_overlay_is_the_networks_crop_where_nothing_speaks_for_the_class(self, seeing_discs: Server) -> None:
        photo = with_disc(LANDSCAPE, "red", CORNERS[0])
        (only,) = ask(seeing_discs, encode(photo, "PNG"), Target="red")["explanations"]
        shown, plain = (np.asarray(image, dtype=int) for image in (picture(only["overlay"]), cropping.crop(photo)))
        against = np.repeat(np.repeat(np.array(only["map"]) < -0.1, 32, axis=0), 32, axis=1)
        assert against.any()
        assert np.abs(shown - plain)[against].mean() < 1

    @pytest.mark.parametrize(
        "accept", ["*/*", "application/json", "image/png, application/json", "text/html", "image/*", "image/png;q=0"]
    )
    def test_whoever_does_not_ask_for_a_png_gets_json(self, server: Server, accept: str) -> None:
        assert ask_for(server, PHOTOS[0], accept=accept, Overlays="none").json()["success"] is True

    @pytest.mark.parametrize("accept", ["image/png", "IMAGE/PNG", "image/png;q=0.9", "text/plain, image/png"])
    def test_whoever_names_png_gets_it(self, server: Server, accept: str) -> None:
        assert ask_for(server, PHOTOS[0], accept=accept).headers["Content-Type"] == "image/png"

    @pytest.mark.parametrize(
        ("overlays", "keys"),
        [("crop", {"overlay"}), ("picture", {"picture"}), ("both", {"overlay", "picture"}), ("none", set())],
    )
    def test_a_form_chooses_them(self, server: Server, overlays: str, keys: set[str]) -> None:
        answer = requests.post(
            server.explaining, files={"file": PHOTOS[0]}, data={"overlays": overlays, "target": "7"}, timeout=60
        ).json()
        assert answer["explanations"][0].keys() & {"overlay", "picture"} == keys
        assert "crop" in answer

    def test_instances_are_answered_in_json_whatever_accept_says(self, server: Server) -> None:
        body = {"instances": TEXTS[:1], "parameters": {"overlays": "none"}}
        answer = requests.post(server.explaining, json=body, headers={"Accept": "image/png"}, timeout=60)
        assert answer.json()["explanations"][0]["success"] is True

    def test_errors_are_json_all_the_same(self, server: Server) -> None:
        for photo, options, status in (
            (b"text", {}, 415),
            (PHOTOS[0], {"Target": "?"}, 400),
            (PHOTOS[0][:4000], {}, 422),
        ):
            response = ask_for(server, photo, accept="image/png", **options)
            assert (response.status_code, response.json()["success"]) == (status, False)


def explain_by_kserve(server: Server, *instances: object, **parameters: object) -> Any:
    async def explain() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
            document = {"instances": list(instances), "parameters": parameters}
            return await client.explain(server.service.inference, "densenet", document)

    return asyncio.run(explain())


class TestKServe:
    """By KServe's own client."""

    def test_predictions_are_explained(self, server: Server) -> None:
        instances, targets = [{"b64": text} for text in TEXTS], ["n02124075", 7]
        answer = explain_by_kserve(server, *instances, target=targets, overlays="crop", top_k=2)
        assert answer.keys() == {"predictions", "explanations"}
        for photo, prediction, explained in zip(PHOTOS, answer["predictions"], answer["explanations"], strict=True):
            assert same(prediction, server.send(photo, **{"X-Top-K": "2"}).json())
            alone = ask(server, photo, Target="n02124075,7")
            assert alike(explained["explanations"][0]["map"], alone["explanations"][0]["map"])
            assert [row["class_id"] for row in explained["explanations"]] == ["n02124075", CLASSES.ids[7]]
            assert explained["crop"] == alone["crop"]

    def test_a_bad_instance_is_an_error_in_its_place(self, server: Server) -> None:
        answer = explain_by_kserve(server, TEXTS[0], "?", {"b64": TEXTS[1]}, overlays="none")
        for results in answer.values():
            assert [result["success"] for result in results] == [True, False, True]
            assert results[1]["error"]["code"] == "bad_base64"

    def test_the_client_raises_our_words(self, server: Server) -> None:
        with pytest.raises(httpx.HTTPStatusError, match="several classes; use an id: n02012849 and n03126707"):
            explain_by_kserve(server, TEXTS[0], target="crane")

    def test_v2_has_no_explanations(self, server: Server) -> None:
        tensor = {"name": "x", "datatype": "BYTES", "shape": [1], "data": TEXTS[:1]}
        for route in ("/v1/models/densenet:explain", "/explanations/densenet"):
            response = requests.post(server.service.inference + route, json={"inputs": [tensor]}, timeout=60)
            assert (response.status_code, response.json()["code"]) == (400, "bad_option")


class TestRefusals:
    @pytest.mark.parametrize("options", [{"target": "7"}, {"overlays": "none"}])
    def test_a_prediction_has_no_such_options(self, server: Server, options: dict[str, str]) -> None:
        headers = {f"X-{name}": value for name, value in options.items()}
        answers = [
            server.send(PHOTOS[0], **headers),
            server.post(files={"file": PHOTOS[0]}, data=options),
            server.post(json={"instances": TEXTS[:1], "parameters": options}),
        ]
        assert [answer.json()["error"]["code"] for answer in answers] == ["bad_option"] * 3

    @pytest.mark.parametrize("name", ["target", "overlays", "top_k", "format"])
    def test_a_file_may_have_an_options_name(self, server: Server, name: str) -> None:
        assert server.post(files={name: PHOTOS[0]}).json() == server.send(PHOTOS[0]).json()

    @pytest.mark.parametrize("name", ["explain", "Explain", "EXPLAIN"])
    def test_a_clients_header_does_not_turn_a_prediction_into_an_explanation(self, server: Server, name: str) -> None:
        assert "explanations" not in server.send(PHOTOS[0], **{name: "True"}).json()
        assert "explanations" in ask_for(server, PHOTOS[0], Overlays="none").json()
        headers = OCTETS | {name: "False"}
        assert "explanations" in requests.post(server.explaining, data=PHOTOS[0], headers=headers, timeout=60).json()

    def test_where_torchserve_says_nothing_the_header_asks_for_explanations(self, server: Server) -> None:
        url = f"{server.service.inference}/models/densenet/invoke"
        query = {"target": "Egyptian cat,7", "overlays": "none"}
        answer = requests.post(url, params=query, data=PHOTOS[0], headers=OCTETS | {"explain": "True"}, timeout=60)
        assert [row["class_id"] for row in answer.json()["explanations"]] == ["n02124075", CLASSES.ids[7]]

    def test_one_broken_image_among_several_is_one_failed_result(self, server: Server) -> None:
        files = {"a": PHOTOS[0], "b": PHOTOS[1][:4000], "c": b"\0", "d": PHOTOS[2]}
        answer = requests.post(server.explaining, files=files, data={"target": "7", "overlays": "none"}, timeout=60)
        results = answer.json()["results"]
        codes = [result.get("error", {}).get("code") for result in results]
        assert codes == [None, "broken_image", "not_an_image", None]
        for result, photo in ((results[0], PHOTOS[0]), (results[3], PHOTOS[2])):
            assert alike(result["explanations"], ask(server, photo, Target="7", Overlays="none")["explanations"])

    def test_an_answer_that_would_be_too_large_says_what_to_leave_out(self, server: Server) -> None:
        files = {str(i): PHOTOS[i % 3] for i in range(8)}
        data = {"target": ",".join(map(str, range(10)))}
        answer = requests.post(server.explaining, files=files, data=data, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "answer_too_large")
        assert "overlays" in answer.json()["error"]["message"]

    @pytest.mark.parametrize("body", [b"", b"{}", b"[]"])
    def test_no_image(self, server: Server, body: bytes) -> None:
        answer = requests.post(server.explaining, data=body, headers=OCTETS, timeout=60)
        assert (answer.status_code, answer.json()["success"]) == (400, False)

    def test_hostile_targets_hurt_nobody(self, server: Server) -> None:
        workers = server.workers()
        hostile = ["", "crane", "-1", "1e9", "," * 5000, "x" * 500_000, "\n[PID]99999999999", "\0", "🐈", "9" * 10_000]
        for target in hostile:
            answer = requests.post(server.explaining, files={"file": PHOTOS[0]}, data={"target": target}, timeout=60)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_option"), target[:20]
        for value in (-1, 1.5, None, True, {}, [[]], [None], 10**30, ["x" * 500_000], [{"a": []}] * 1000):
            body = {"instances": TEXTS[:1], "parameters": {"target": value, "overlays": "none"}}
            answer = requests.post(server.explaining, json=body, timeout=60)
            assert answer.status_code == (200 if value is None else 400), value
        assert server.workers() == workers


# Requests by what they are: where to, and arguments of requests.post.
MIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "prediction": ("/predictions/densenet", {"data": PHOTOS[0], "headers": OCTETS}),
    "explanation": ("/explanations/densenet", {"data": PHOTOS[1], "headers": OCTETS}),
    "target": ("/explanations/densenet", {"files": {"file": PHOTOS[0]}, "data": {"target": "7,8", "overlays": "none"}}),
    "several": ("/explanations/densenet", {"files": {"a": PHOTOS[2], "b": b"\0", "c": PHOTOS[0]}}),
    "form": ("/predictions/densenet", {"files": {"a": PHOTOS[1], "b": PHOTOS[2]}, "data": {"top_k": "2"}}),
    "instances": ("/v1/models/densenet:predict", {"json": {"instances": TEXTS}}),
    "explained instances": ("/v1/models/densenet:explain", {"json": {"instances": [TEXTS[1], "?"]}}),
    "tensor": (
        "/v2/models/densenet/infer",
        {"json": {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": TEXTS[:1]}]}},
    ),
    "png": ("/explanations/densenet", {"data": PHOTOS[2], "headers": OCTETS | {"Accept": "image/png"}}),
    "no class": ("/explanations/densenet", {"data": PHOTOS[0], "headers": OCTETS | {"X-Target": "unicorn"}}),
    "broken": ("/explanations/densenet", {"data": PHOTOS[0][:4000], "headers": OCTETS}),
}


def ask_mixed(server: Server, name: str, together: Barrier | None = None) -> list[Any]:
    """Status and content."""
    route, request = MIXED[name]
    if together:
        together.wait()
    response = requests.post(server.service.inference + route, timeout=60, **request)
    is_png = response.headers["Content-Type"] == "image/png"
    return [response.status_code, to_list(response.content) if is_png else without_last_bits(response.json())]


@pytest.fixture(scope="module")
def alone(server: Server) -> dict[str, list[Any]]:
    """What each is answered by a service that takes one request at a time."""
    return {name: ask_mixed(server, name) for name in MIXED}


@pytest.mark.parametrize("shift", range(4))
def test_predictions_and_explanations_in_one_batch_are_each_answered_as_alone(
    batching: Server, alone: dict[str, list[Any]], shift: int
) -> None:
    workers, log = batching.workers(), batching.log()
    names = [list(MIXED)[(shift * BATCH + 5 * i) % len(MIXED)] for i in range(BATCH)]
    together = Barrier(BATCH)
    with ThreadPoolExecutor(BATCH) as clients:
        answers = clients.map(lambda name: ask_mixed(batching, name, together), names)
        for name, answer in zip(names, answers, strict=True):
            assert alike(answer, alone[name]), name
    assert batching.workers() == workers
    assert "unexpected failure" not in batching.log()[len(log) :]


def to_list(png: bytes) -> list[list[float]]:
    """A picture as numbers for alike(): a level is 5e-6 of them, so that two may be lost where heat is rounded."""
    with Image.open(io.BytesIO(png)) as read:
        numbers: list[list[float]] = (5e-6 * np.asarray(read.resize((56, 56)), dtype=float)).reshape(56, -1).tolist()
    return numbers


def without_last_bits(document: Any) -> Any:
    """Pictures inside JSON as numbers."""
    if isinstance(document, dict):
        return {
            key: to_list(base64.b64decode(value)) if key in ("overlay", "picture") else without_last_bits(value)
            for key, value in document.items()
        }
    return [without_last_bits(item) for item in document] if isinstance(document, list) else document
