"""Every protocol's reading and answering, on its own: documents in, requests out; outcomes in, replies out."""

import base64
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from handler import routing
from handler.errors import ErrorCode, RequestError
from handler.options import MAX_TARGETS
from handler.payload import Document, Payload, Uploads
from handler.protocols import HUGGING_FACE, KSERVE_V1, NATIVE, NATIVE_INSTANCES, OPEN_INFERENCE, ProtocolAdapter
from handler.ranking import ClassIndex, Prediction
from handler.reply import Reply
from handler.request import MAX_OVERLAY_IMAGES, Request, Upload
from handler.results import ImageResult
from handler.settings import Settings

ON_KSERVE = {"explain": "False"}
ON_PREDICTIONS = {"explain": "False", "url_path": ""}
MODEL = {"name": "densenet", "version": "1.0", "weights": "none", "precision": "fp32"}

IMAGES = [b"\xff\xd8 one", b"\xff\xd8 two", b"\xff\xd8 three"]
TEXTS = [base64.b64encode(image).decode() for image in IMAGES]
TENSOR = torch.arange(3 * 224 * 224, dtype=torch.float32).view(3, 224, 224) / 1000
NESTED, FLAT = TENSOR.tolist(), TENSOR.flatten().tolist()

ROBIN = ImageResult((Prediction(7, "n01", "robin", 0.75, 3.0), Prediction(9, "n02", "crane", 0.25, -2.0)), True)
CRANE = ImageResult((Prediction(9, "n02", "crane", 0.5, 0.5), Prediction(0, "n03", "crane", 0.125, -800.0)), True)
BROKEN = RequestError(ErrorCode.BROKEN_IMAGE, "it is broken")


def read(protocol: ProtocolAdapter, content: object, *, appended: bytes = b"", **options: object) -> Any:
    return protocol.read(Document(content, options, appended), Settings())


def contents(request: Request) -> list[object]:
    """Images as bytes, tensors as whether they are TENSOR, failures as their codes."""
    plain: dict[type, Callable[[Any], object]] = {
        RequestError: lambda failure: failure.code,
        torch.Tensor: lambda tensor: tensor.equal(TENSOR),
    }
    return [plain.get(type(upload.content), bytes)(upload.content) for upload in request.uploads]


def refusal(protocol: ProtocolAdapter, content: object, **more: Any) -> ErrorCode:
    with pytest.raises(RequestError) as refused:
        read(protocol, content, **more)
    return refused.value.code


def body(reply: Reply) -> Any:
    return json.loads(reply.body)


class TestRecognition:
    """Which protocol a request is in, and in which it is refused before that is known."""

    @pytest.mark.parametrize(
        ("payload", "headers", "protocol"),
        [
            (Uploads({"body": b"x"}, {}), ON_PREDICTIONS, NATIVE),
            (Uploads({"body": b"x"}, {}), ON_KSERVE, NATIVE),
            (Uploads({"body": b"x"}, {"format": "huggingface"}), ON_PREDICTIONS, HUGGING_FACE),
            (Uploads({"body": b"x"}, {"format": "nonsense"}), {}, HUGGING_FACE),
            (Document({"instances": []}, {}), ON_PREDICTIONS, NATIVE_INSTANCES),
            (Document({"instances": None, "inputs": []}, {}), {}, NATIVE_INSTANCES),
            (Document({"instances": []}, {}), ON_KSERVE, KSERVE_V1),
            (Document({"inputs": []}, {}), ON_PREDICTIONS, OPEN_INFERENCE),
            (Document({"inputs": [1], "id": 7}, {}), ON_KSERVE, OPEN_INFERENCE),
            (Document({"inputs": ""}, {}), {}, HUGGING_FACE),
            (Document({"inputs": None}, {}), ON_KSERVE, HUGGING_FACE),
            (Document({"inputs": ["", {}]}, {}), {}, HUGGING_FACE),
            (Document({"inputs": [{}, ""]}, {}), {}, OPEN_INFERENCE),
            (Document({"inputs": {}}, {}), ON_PREDICTIONS, HUGGING_FACE),
        ],
    )
    def test_what_a_request_holds_decides(
        self, payload: Payload, headers: Mapping[str, str], protocol: ProtocolAdapter
    ) -> None:
        assert routing.detect_protocol(payload, headers) is protocol

    @pytest.mark.parametrize(
        "content", [None, 7, 0.5, True, "inputs", [], [{"inputs": []}], {}, {"input": "x"}, {"Instances": []}]
    )
    def test_a_document_of_no_protocol_is_refused(self, content: object) -> None:
        with pytest.raises(RequestError) as refused:
            routing.detect_protocol(Document(content, {}), {})
        assert refused.value.code is ErrorCode.BAD_JSON

    @pytest.mark.parametrize(
        ("row", "headers", "protocol"),
        [
            ({}, {}, NATIVE),
            ({"body": b""}, ON_PREDICTIONS, NATIVE),
            ({"body": b""}, ON_KSERVE, KSERVE_V1),
            ({"body": b'{"instances": ['}, ON_PREDICTIONS, NATIVE),
            ({"body": b'{"instances": ['}, ON_KSERVE, KSERVE_V1),
            ({"body": bytearray(b'{"id": "1", "inputs": [')}, ON_PREDICTIONS, OPEN_INFERENCE),
            ({"body": b'a text with "inputs"'}, ON_PREDICTIONS, NATIVE),
            ({"body": {"inputs": []}}, {}, NATIVE),
            ({"body": None}, {}, NATIVE),
            ({"format": bytearray(b"huggingface")}, {}, HUGGING_FACE),
            ({"format": bytearray(b"\xff\xd8")}, {}, NATIVE),
            ({}, {"x-format": "huggingface"}, HUGGING_FACE),
        ],
    )
    def test_an_unreadable_request_is_refused_as_its_address_or_its_words_suggest(
        self, row: Mapping[str, object], headers: Mapping[str, str], protocol: ProtocolAdapter
    ) -> None:
        assert routing.fallback_protocol(row, headers) is protocol

    @pytest.mark.parametrize("protocol", [KSERVE_V1, OPEN_INFERENCE, HUGGING_FACE])
    def test_a_refusal_is_a_string_with_our_code_beside_it(self, protocol: ProtocolAdapter) -> None:
        reply = protocol.refuse(BROKEN)
        assert (reply.status, body(reply)) == (422, {"error": "it is broken", "code": "broken_image"})

    @pytest.mark.parametrize("protocol", [NATIVE, NATIVE_INSTANCES])
    def test_our_own_refusal_is_an_object(self, protocol: ProtocolAdapter) -> None:
        reply = protocol.refuse(BROKEN)
        error = {"code": "broken_image", "message": "it is broken"}
        assert (reply.status, body(reply)) == (422, {"success": False, "error": error})


class TestOwn:
    """Images as bytes."""

    @staticmethod
    def request(*images: bytes, **options: object) -> Request:
        return NATIVE.read(Uploads({f"part {i}": image for i, image in enumerate(images)}, options), Settings())

    def test_every_part_is_an_image_and_an_empty_one_a_failure_in_its_place(self) -> None:
        request = self.request(IMAGES[0], b"", IMAGES[1], top_k="3")
        assert contents(request) == [IMAGES[0], ErrorCode.NO_IMAGE, IMAGES[1]]
        assert request.top_k == 3

    def test_one_image_is_answered_with_one_object(self) -> None:
        assert body(self.request(IMAGES[0]).answer([ROBIN], MODEL)) == {
            "success": True,
            "class_id": "n01",
            "class_name": "robin",
            "predictions": [
                {"class_id": "n01", "label": "robin", "probability": 0.75},
                {"class_id": "n02", "label": "crane", "probability": 0.25},
            ],
            "recognized": True,
            "model": MODEL,
        }

    def test_several_are_answered_with_their_names_and_a_failure_in_its_place(self) -> None:
        answer = body(self.request(*IMAGES, min_probability=0.6).answer([ROBIN, BROKEN, CRANE], MODEL))
        assert [row["name"] for row in answer["results"]] == ["part 0", "part 1", "part 2"]
        assert [row["success"] for row in answer["results"]] == [True, False, True]
        assert [answer["results"][i]["recognized"] for i in (0, 2)] == [True, False]

    def test_the_failure_of_an_only_image_is_that_of_the_request(self) -> None:
        with pytest.raises(RequestError, match="it is broken"):
            self.request(IMAGES[0]).answer([BROKEN], MODEL)


CLASSES = ClassIndex(*[tuple(f"{kind}{i}" for i in range(20)) for kind in ("n", "class ")])


class TestExplanations:
    """How many pictures an answer may have, and when a picture is the answer."""

    @staticmethod
    def own(images: int, accept: str = "", **options: object) -> Any:
        parts = {f"part {i}": IMAGES[0] for i in range(images)}
        return NATIVE.explain(Uploads(parts, options, accept), Settings(), CLASSES)

    @staticmethod
    def kserve(*instances: object, **parameters: object) -> Any:
        document = {"instances": list(instances), "parameters": parameters}
        return KSERVE_V1.explain(Document(document, {}), Settings(), CLASSES)

    @pytest.mark.parametrize(
        ("images", "targets", "overlays"),
        [
            (MAX_OVERLAY_IMAGES, 1, "crop"),
            (MAX_OVERLAY_IMAGES, None, "picture"),
            (1, MAX_OVERLAY_IMAGES, "picture"),
            (MAX_OVERLAY_IMAGES // 2, None, None),
            (MAX_OVERLAY_IMAGES // 4, 2, "both"),
            (16, MAX_TARGETS, "none"),
        ],
    )
    def test_as_many_pictures_as_an_answer_holds(self, images: int, targets: int | None, overlays: str | None) -> None:
        target = targets and list(range(targets))
        assert len(self.own(images, target=target, overlays=overlays).uploads) == images
        assert len(self.kserve(*TEXTS[:1] * images, target=target, overlays=overlays).uploads) == images

    @pytest.mark.parametrize(
        ("images", "targets", "overlays"),
        [
            (MAX_OVERLAY_IMAGES + 1, 1, "crop"),
            (MAX_OVERLAY_IMAGES + 1, None, "picture"),
            (2, MAX_OVERLAY_IMAGES // 2 + 1, "picture"),
            (MAX_OVERLAY_IMAGES // 2 + 1, None, None),
            (1, MAX_OVERLAY_IMAGES // 2 + 1, "both"),
            (16, MAX_TARGETS, "both"),
        ],
    )
    def test_more_are_refused(self, images: int, targets: int | None, overlays: str | None) -> None:
        target = targets and list(range(targets))
        for ask in (
            lambda: self.own(images, target=target, overlays=overlays),
            lambda: self.kserve(*TEXTS[:1] * images, target=target, overlays=overlays),
        ):
            with pytest.raises(RequestError, match=f"request at most {MAX_OVERLAY_IMAGES}: ") as refused:
                ask()
            assert refused.value.code is ErrorCode.ANSWER_TOO_LARGE

    def test_what_has_no_picture_is_not_counted(self) -> None:
        request = self.kserve(*TEXTS[:1] * 2, *[FLAT, "?"] * 3, target=[1, 2])
        assert len(request.uploads) == 8
        assert self.own(1, "image/png", target=list(range(MAX_TARGETS))).explain_options.png

    @pytest.mark.parametrize(
        ("targets", "parameters", "expected"),
        [([3], {}, (3,)), ([3, 3.0], {}, (3,)), ([3, 4], {"target": 5}, (5,)), ([None, None], {}, ()), ([0], {}, (0,))],
    )
    def test_a_target_beside_every_image_is_the_class_to_explain(
        self, targets: list[object], parameters: dict[str, object], expected: tuple[int, ...]
    ) -> None:
        request = self.kserve(*[{"data": TEXTS[0], "target": target} for target in targets], **parameters)
        assert request.explain_options.targets == expected

    @pytest.mark.parametrize("targets", [[3, 4], [3, None], [None, 3], [True, [3]], [[3]], [{}, {}]])
    def test_targets_that_differ_between_images_are_refused(self, targets: list[object]) -> None:
        with pytest.raises(RequestError, match='the same "target"') as refused:
            self.kserve(*[{"data": TEXTS[0], "target": target} for target in targets])
        assert refused.value.code is ErrorCode.BAD_OPTION

    @pytest.mark.parametrize(
        ("accept", "png"),
        [
            *((named, True) for named in ("image/png", "IMAGE/PNG", "image/png;q=0.9", "text/plain, image/png")),
            *((named, True) for named in ("image/png, */*", "image/png, application/json;q=0")),
            *((named, False) for named in ("", "*/*", "image/*", "image/apng", "image/png;q=0", "image/png;q=0, */*")),
            *((named, False) for named in ("image/png, application/json", "image/png, application/json;q=0.1")),
            ("application/problem+json, image/png", False),
        ],
    )
    def test_a_picture_is_the_answer_to_whoever_names_it_and_no_json(self, accept: str, png: bool) -> None:
        assert self.own(1, accept).explain_options.png is png


class TestKServeV1:
    """Lists of instances."""

    @pytest.mark.parametrize("name", ["image", "image_bytes", "data"])
    def test_an_image_has_many_spellings(self, name: str) -> None:
        text = TEXTS[0]
        spellings = [text, {"b64": text}, {name: text}, {name: {"b64": text}}, {name: f"data:image/png;base64,{text}"}]
        spellings += [{name: text, "target": 0}, {"key": "   1", name: {"b64": text}}]
        assert contents(read(KSERVE_V1, {"instances": spellings})) == [IMAGES[0]] * 7

    @pytest.mark.parametrize("wrap", [lambda numbers: numbers, lambda numbers: {"image": numbers}])
    def test_a_tensor_is_nested_or_flat(self, wrap: Callable[[object], object]) -> None:
        request = read(KSERVE_V1, {"instances": [wrap(NESTED), wrap(FLAT)]})
        assert contents(request) == [True, True]

    @pytest.mark.parametrize(
        ("instance", "code"),
        [
            (None, ErrorCode.BAD_JSON),
            (7, ErrorCode.BAD_JSON),
            (True, ErrorCode.BAD_JSON),
            ({}, ErrorCode.BAD_JSON),
            ({"b64": None}, ErrorCode.BAD_JSON),
            ({"picture": TEXTS[0]}, ErrorCode.BAD_JSON),
            ({"b64": TEXTS[0], "size": 1}, ErrorCode.BAD_JSON),
            ({"target": 0}, ErrorCode.BAD_JSON),
            ({"data": TEXTS[0], "image": TEXTS[0]}, ErrorCode.BAD_JSON),
            ({"image": "https://example.com/cat.jpg"}, ErrorCode.BAD_BASE64),
            ({"image": {"image": TEXTS[0]}}, ErrorCode.BAD_JSON),
            ({"b64": {"b64": TEXTS[0]}}, ErrorCode.BAD_JSON),
            ("", ErrorCode.NO_IMAGE),
            ({"b64": ""}, ErrorCode.NO_IMAGE),
            ("?", ErrorCode.BAD_BASE64),
            ({"image": {"b64": "?"}}, ErrorCode.BAD_BASE64),
            ([], ErrorCode.BAD_TENSOR),
            ([1, 2, 3], ErrorCode.BAD_TENSOR),
            ([NESTED], ErrorCode.BAD_TENSOR),
            ([TEXTS[0]], ErrorCode.BAD_TENSOR),
            ([*NESTED[:2], [[math.nan] * 224] * 224], ErrorCode.BAD_TENSOR),
        ],
    )
    def test_a_bad_instance_is_a_failure_in_its_place(self, instance: object, code: ErrorCode) -> None:
        request = read(KSERVE_V1, {"instances": [TEXTS[0], instance, TEXTS[1]]})
        assert contents(request) == [IMAGES[0], code, IMAGES[1]]

    @pytest.mark.parametrize("instances", [[], None, {}, "x", 7, {"b64": TEXTS[0]}])
    def test_instances_that_are_no_list_of_any_are_refused(self, instances: object) -> None:
        assert refusal(KSERVE_V1, {"instances": instances}) is ErrorCode.BAD_JSON

    def test_there_is_an_answer_for_each_instance(self) -> None:
        request = read(KSERVE_V1, {"instances": TEXTS, "parameters": {"min_probability": 0.6}})
        rows = body(request.answer([CRANE, BROKEN, ROBIN], MODEL))["predictions"]
        assert [row.get("recognized") for row in rows] == [False, None, True]
        assert rows[1] == {"success": False, "error": {"code": "broken_image", "message": "it is broken"}}

    def test_parameters_win_over_the_options_beside_the_body(self) -> None:
        document = {"instances": TEXTS, "parameters": {"top_k": "7"}}
        request = read(KSERVE_V1, document, top_k="3", min_probability="0.5")
        assert (request.options.top_k, request.options.min_probability) == (7, 0.5)


# Protocols that take parameters, and a good request of each.
GOOD: dict[str, tuple[ProtocolAdapter, dict[str, object]]] = {
    "v1": (KSERVE_V1, {"instances": TEXTS[:1]}),
    "v2": (OPEN_INFERENCE, {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": TEXTS[:1]}]}),
    "hugging face": (HUGGING_FACE, {"inputs": TEXTS[0]}),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("parameters", [None, {}, {"top_k": None}])
def test_absent_parameters_are_as_the_settings_say(name: str, parameters: object) -> None:
    protocol, document = GOOD[name]
    assert read(protocol, document | {"parameters": parameters}).top_k == Settings().top_k


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("top_k", [0, -1, 1001, 2.5, True, "x", "", "5.0", "１", [], {}, math.nan, 10**400, "9" * 400])
def test_a_top_k_that_is_no_count_of_classes_is_refused_everywhere(name: str, top_k: object) -> None:
    protocol, document = GOOD[name]
    assert refusal(protocol, document | {"parameters": {"top_k": top_k}}) is ErrorCode.BAD_OPTION
    assert refusal(protocol, document, top_k=top_k) is ErrorCode.BAD_OPTION


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("top_k", [7, 7.0, "7", " 7 "])
def test_a_top_k_may_be_a_number_without_a_fraction_or_its_digits(name: str, top_k: object) -> None:
    protocol, document = GOOD[name]
    assert read(protocol, document | {"parameters": {"top_k": top_k}}).top_k == 7


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ([], ErrorCode.BAD_JSON),
        ("top_k=3", ErrorCode.BAD_JSON),
        (7, ErrorCode.BAD_JSON),
        ({"topk": 3}, ErrorCode.BAD_OPTION),
        ({"": 3}, ErrorCode.BAD_OPTION),
        ({"\ud800" * 100: 3}, ErrorCode.BAD_OPTION),
        ({"Top_K": 3}, ErrorCode.BAD_OPTION),
    ],
)
def test_parameters_of_a_wrong_kind_and_unknown_ones_are_refused_everywhere(
    name: str, parameters: object, code: ErrorCode
) -> None:
    protocol, document = GOOD[name]
    assert refusal(protocol, document | {"parameters": parameters}) is code


VALUES = tuple(float(f"{value:.9g}") for value in torch.rand(1024, generator=torch.Generator().manual_seed(0)).tolist())
EMBEDDED = replace(ROBIN, embedding=VALUES)
IN_BASE64 = base64.b64encode(np.array(VALUES, dtype="<f4").tobytes()).decode()


class TestEmbeddings:
    """An option of every protocol, in each protocol's shape."""

    @pytest.mark.parametrize("name", ["native", "v1"])
    @pytest.mark.parametrize(
        ("chosen", "embeds", "found"),
        [
            *(({}, False, None), ({"embedding": "none"}, False, None), ({"embedding": None}, False, None)),
            *(({"embedding": "float"}, True, list(VALUES)), ({"embedding": "base64"}, True, IN_BASE64)),
        ],
    )
    def test_it_stands_in_each_images_result(
        self, name: str, chosen: dict[str, object], embeds: bool, found: object
    ) -> None:
        if name == "native":
            request = NATIVE.read(Uploads({"a": IMAGES[0], "b": IMAGES[1]}, chosen), Settings())
        else:
            request = read(KSERVE_V1, {"instances": TEXTS[:2], "parameters": chosen})
        assert request.embeds is embeds
        good, bad = (EMBEDDED if embeds else ROBIN), BROKEN
        answer = body(request.answer([good, bad], MODEL))
        rows = answer["results"] if name == "native" else answer["predictions"]
        assert [row.get("embedding") for row in rows] == [found, None]
        assert ("embedding" in rows[0]) is embeds

    def test_numbers_are_the_float32s_of_the_base64(self) -> None:
        decoded = np.frombuffer(base64.b64decode(IN_BASE64), "<f4")
        assert np.array_equal(np.array(VALUES, dtype=np.float32), decoded)

    @pytest.mark.parametrize("name", GOOD)
    @pytest.mark.parametrize(("norm", "read_as"), [(None, "raw"), ("raw", "raw"), ("l2", "l2")])
    def test_every_protocol_has_its_norm(self, name: str, norm: str | None, read_as: str) -> None:
        protocol, document = GOOD[name]
        assert read(protocol, document, embedding_norm=norm).options.embedding_norm == read_as
        document = document | {"parameters": {"embedding_norm": norm}}
        assert read(protocol, document, embedding_norm=read_as).options.embedding_norm == read_as

    @pytest.mark.parametrize("name", ["v1", "hugging face"])
    @pytest.mark.parametrize("value", ["", "FLOAT", "floats", "int8", True, False, 1, [], ["float"], {}, "x" * 10_000])
    def test_other_words_are_refused(self, name: str, value: object) -> None:
        protocol, document = GOOD[name]
        for option, words in (("embedding", "none"), ("embedding_norm", "raw and l2")):
            with pytest.raises(RequestError, match=f"^{option} must be one of {words}") as refused:
                read(protocol, document | {"parameters": {option: value}})
            assert refused.value.code is ErrorCode.BAD_OPTION
            assert len(refused.value.message) < 300

    def test_tensors_have_an_output_for_it_in_place_of_the_option(self) -> None:
        protocol, document = GOOD["v2"]
        assert refusal(protocol, document | {"parameters": {"embedding": "float"}}) is ErrorCode.BAD_OPTION
        assert refusal(protocol, document, embedding="float") is ErrorCode.BAD_OPTION
        assert not read(protocol, document).embeds

    def test_explanations_have_none(self) -> None:
        with pytest.raises(RequestError, match="unknown parameter 'embedding'"):
            TestExplanations.own(1, embedding="float")

    @pytest.mark.parametrize("binary", [True, False])
    def test_the_output_is_a_tensor_of_float32(self, binary: bool) -> None:
        outputs = [{"name": "embedding"}, {"name": "recognized", "parameters": {"binary_data": False}}]
        document = tensor(shape=(2,), data=TEXTS[:2]) | {"outputs": outputs}
        request = read(OPEN_INFERENCE, document | {"parameters": {"binary_data_output": binary}})
        assert request.embeds
        reply = request.answer([EMBEDDED, EMBEDDED], MODEL)
        end = int(reply.headers["Inference-Header-Content-Length"]) if binary else len(reply.body)
        row, _ = json.loads(reply.body[:end])["outputs"]
        assert (row["name"], row["datatype"], row["shape"]) == ("embedding", "FP32", [2, 1024])
        found = np.frombuffer(reply.body[end:], "<f4") if binary else np.array(row["data"], dtype=np.float32)
        assert np.array_equal(found, np.array(VALUES * 2, dtype=np.float32))


class TestFeatureExtraction:
    """Hugging Face's other task: embeddings alone, of one image or of several."""

    def test_one_image_or_several_as_bytes_or_as_text(self) -> None:
        options = {"format": "huggingface", "embedding": "float"}
        for request, count in (
            (HUGGING_FACE.read(Uploads({"body": IMAGES[0]}, options), Settings()), 1),
            (read(HUGGING_FACE, {"inputs": TEXTS[0]}, embedding="float"), 1),
            (read(HUGGING_FACE, {"inputs": TEXTS, "parameters": {"embedding": "float"}}), 3),
        ):
            assert contents(request) == IMAGES[:count]
            assert body(request.answer([EMBEDDED] * count, MODEL)) == [list(VALUES)] * count

    @pytest.mark.parametrize(
        ("normalize", "option", "norm"),
        [(None, None, "raw"), (True, None, "l2"), (False, None, "raw"), (False, "l2", "raw"), (None, "l2", "l2")],
    )
    def test_normalize_stands_beside_the_inputs(self, normalize: bool | None, option: str | None, norm: str) -> None:
        document = {"inputs": TEXTS[0], "normalize": normalize}
        request = read(HUGGING_FACE, document, embedding="float", embedding_norm=option)
        assert request.options.embedding_norm == norm

    @pytest.mark.parametrize("normalize", ["true", 1, 0, [], {}])
    def test_normalize_is_true_or_false(self, normalize: object) -> None:
        document = {"inputs": TEXTS[0], "normalize": normalize}
        assert refusal(HUGGING_FACE, document, embedding="float") is ErrorCode.BAD_OPTION

    @pytest.mark.parametrize("embedding", [None, "none"])
    def test_classification_takes_no_list(self, embedding: str | None) -> None:
        assert refusal(HUGGING_FACE, {"inputs": TEXTS}, embedding=embedding) is ErrorCode.BAD_JSON

    def test_its_clients_read_no_base64(self) -> None:
        with pytest.raises(
            RequestError, match=r"^embedding must be one of none and float in this shape, not 'base64'$"
        ):
            read(HUGGING_FACE, {"inputs": TEXTS[0]}, embedding="base64")

    def test_too_many_are_refused(self) -> None:
        assert refusal(HUGGING_FACE, {"inputs": TEXTS * 6}, embedding="float") is ErrorCode.TOO_MANY_IMAGES

    def test_a_bad_image_of_several_fails_the_request(self) -> None:
        request = read(HUGGING_FACE, {"inputs": [TEXTS[0], "?", 7]}, embedding="float")
        assert contents(request) == [IMAGES[0], ErrorCode.BAD_BASE64, ErrorCode.BAD_JSON]
        with pytest.raises(RequestError, match=r"^image 2 of 2: it is broken$"):
            request.answer([EMBEDDED, BROKEN], MODEL)
        with pytest.raises(RequestError, match=r"^it is broken$"):
            request.answer([BROKEN], MODEL)


def tensor(datatype: object = "BYTES", shape: object = (3,), data: object = TEXTS, **more: object) -> dict[str, Any]:
    shape = list(shape) if isinstance(shape, tuple) else shape
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data} | more]}


def binary(blob: bytes, size: object = None, **more: object) -> dict[str, Any]:
    """Keywords of `read`: a tensor whose data follow the JSON."""
    size = len(blob) if size is None else size
    document: dict[str, Any] = tensor(parameters={"binary_data_size": size}, **more)
    del document["inputs"][0]["data"]
    return {"content": document, "appended": blob}


def framed(*elements: bytes) -> bytes:
    """Elements of BYTES as Triton lays them out."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


class TestOpenInference:
    """Named tensors."""

    @pytest.mark.parametrize(
        "document", [tensor(), tensor(shape=(3, 1)), tensor(shape=(3, 1), data=[[text] for text in TEXTS])]
    )
    def test_bytes_are_images_in_base64(self, document: object) -> None:
        assert contents(read(OPEN_INFERENCE, document)) == IMAGES

    @pytest.mark.parametrize("shape", [-1, [-1], 1, 1.0, [1.0]])
    @pytest.mark.parametrize("data", [TEXTS[0], TEXTS[:1]])
    def test_kserves_samples_for_torchserve_are_read(self, shape: object, data: object) -> None:
        """kubernetes/kserve/kf_request_json/v2 in pytorch/serve, docs/samples/v1beta1/torchserve/v2 in kserve."""
        assert contents(read(OPEN_INFERENCE, tensor(shape=shape, data=data))) == IMAGES[:1]

    @pytest.mark.parametrize("data", [TEXTS, [[text] for text in TEXTS]])
    def test_a_first_dimension_of_minus_one_is_the_number_of_elements(self, data: object) -> None:
        assert contents(read(OPEN_INFERENCE, tensor(shape=[-1], data=data))) == IMAGES
        assert contents(read(OPEN_INFERENCE, tensor(shape=[-1, 1], data=data))) == IMAGES
        assert contents(read(OPEN_INFERENCE, **binary(framed(*IMAGES), shape=[-1]))) == IMAGES

    def test_an_image_as_a_list_of_characters_is_read_as_in_their_script(self) -> None:
        """kubernetes/kserve/kf_request_json/v2/mnist/tobytes.py in pytorch/serve."""
        assert contents(read(OPEN_INFERENCE, tensor(shape=[-1], data=list(TEXTS[0])))) == IMAGES[:1]

    def test_an_element_that_is_no_base64_is_a_failure_in_its_place(self) -> None:
        request = read(OPEN_INFERENCE, tensor(shape=(5,), data=["?", TEXTS[0], "", 7, ["a", "b"]]))
        codes = [ErrorCode.BAD_BASE64, IMAGES[0], ErrorCode.NO_IMAGE, ErrorCode.BAD_JSON, ErrorCode.BAD_JSON]
        assert contents(request) == codes

    @pytest.mark.parametrize("data", [[NESTED, NESTED], FLAT + FLAT])
    def test_numbers_are_preprocessed_images(self, data: object) -> None:
        assert contents(read(OPEN_INFERENCE, tensor("FP32", (2, 3, 224, 224), data))) == [True, True]

    @pytest.mark.parametrize("shape", [(3,), (3, 1)])
    def test_binary_bytes_are_images_or_their_base64(self, shape: tuple[int, ...]) -> None:
        blob = framed(IMAGES[0], TEXTS[1].encode(), b"")
        assert contents(read(OPEN_INFERENCE, **binary(blob, shape=shape))) == [IMAGES[0], IMAGES[1], ErrorCode.NO_IMAGE]

    def test_binary_numbers_are_little_endian_floats(self) -> None:
        blob = np.stack([TENSOR.numpy()] * 2).astype("<f4").tobytes()
        request = read(OPEN_INFERENCE, **binary(blob, datatype="FP32", shape=(2, 3, 224, 224)))
        assert contents(request) == [True, True]

    @pytest.mark.parametrize(
        ("document", "code"),
        [
            ({"inputs": []}, ErrorCode.BAD_JSON),
            ({"inputs": [None]}, ErrorCode.BAD_JSON),
            ({"inputs": [[]]}, ErrorCode.BAD_JSON),
            ({"inputs": tensor()["inputs"] * 2}, ErrorCode.BAD_JSON),
            ({"inputs": [{}]}, ErrorCode.BAD_TENSOR),
            *((tensor() | {"id": value}, ErrorCode.BAD_JSON) for value in (7, True, [], {}, 1.5)),
            *((tensor(data=value), ErrorCode.BAD_JSON) for value in (None, 7, {})),
            *((tensor(data=value), ErrorCode.BAD_TENSOR) for value in (TEXTS[0], TEXTS[:2])),
            (tensor("FP32", (-1, 3, 224, 224), FLAT), ErrorCode.BAD_TENSOR),
            (tensor("FP32", (1, 3, 224, 224), TEXTS[0]), ErrorCode.BAD_JSON),
            (tensor(shape=[-1], data=TEXTS * 6), ErrorCode.TOO_MANY_IMAGES),
            (tensor(data=[TEXTS]), ErrorCode.BAD_TENSOR),
            (tensor(data=[]), ErrorCode.BAD_TENSOR),
            (tensor(shape=(0,), data=[]), ErrorCode.NO_IMAGE),
            (tensor(shape=(17,)), ErrorCode.TOO_MANY_IMAGES),
            (tensor(shape=(10**300,)), ErrorCode.BAD_TENSOR),
            *((tensor(shape=value), ErrorCode.BAD_TENSOR) for value in (None, "3", {}, [], [[3]], ["3"], [None])),
            *((tensor(shape=[value]), ErrorCode.BAD_TENSOR) for value in (-2, 3.5, True, math.nan, math.inf)),
            *((tensor(shape=value), ErrorCode.BAD_TENSOR) for value in ((1, 3), (3, -1), (3, 1, 1), (3, 2), (3, 0))),
            *(
                (tensor(value), ErrorCode.BAD_TENSOR)
                for value in (None, 7, [], {}, "", "bytes", "UINT8", "FP64", "x" * 999)
            ),
            (tensor("FP32", (3,), [1, 2, 3]), ErrorCode.BAD_TENSOR),
            (tensor("FP32", (3, 224, 224), NESTED), ErrorCode.BAD_TENSOR),
            (tensor("FP32", (1, 224, 224, 3), FLAT), ErrorCode.BAD_TENSOR),
            (tensor("FP32", (1, 3, 224, 224), FLAT[1:]), ErrorCode.BAD_TENSOR),
            (tensor("FP32", (1, 3, 224, 224), NESTED), ErrorCode.BAD_TENSOR),
            (tensor("FP32", (1, 3, 224, 224), TEXTS), ErrorCode.BAD_TENSOR),
            (tensor("FP32", (1, 3, 224, 224), [math.nan, *FLAT[1:]]), ErrorCode.BAD_TENSOR),
            (tensor("FP32", (1, 3, 224, 224), [10**400, *FLAT[1:]]), ErrorCode.BAD_TENSOR),
            (tensor("FP32", (1, 3, 224, 224), [[], *FLAT[1:]]), ErrorCode.BAD_TENSOR),
        ],
    )
    def test_a_request_that_cannot_be_understood_is_refused(self, document: object, code: ErrorCode) -> None:
        assert refusal(OPEN_INFERENCE, document) is code

    @pytest.mark.parametrize(
        "request_of",
        [
            binary(framed(*IMAGES), size=0),
            binary(framed(*IMAGES), size=-1),
            binary(framed(*IMAGES), size=True),
            binary(framed(*IMAGES), size="9"),
            binary(framed(*IMAGES), size=len(framed(*IMAGES)) + 0.5),
            binary(framed(*IMAGES), size=len(framed(*IMAGES)) + 1),
            binary(framed(*IMAGES), size=[]),
            binary(framed(*IMAGES[:2])),
            binary(framed(*IMAGES, b"")),
            binary(framed(*IMAGES)[:-1]),
            binary(framed(*IMAGES) + b"\0"),
            binary(b"\xff\xff\xff\xff"),
            binary(b""),
            binary(bytes(4 * len(FLAT) - 4), datatype="FP32", shape=(1, 3, 224, 224)),
            binary(b"\xff" * 4 * len(FLAT), datatype="FP32", shape=(1, 3, 224, 224)),
        ],
    )
    def test_binary_data_that_are_not_what_the_json_says_are_refused(self, request_of: dict[str, Any]) -> None:
        assert refusal(OPEN_INFERENCE, **request_of) is ErrorCode.BAD_TENSOR

    @pytest.mark.parametrize(
        ("outputs", "code"),
        [
            ("labels", ErrorCode.BAD_JSON),
            ({"name": "labels"}, ErrorCode.BAD_JSON),
            ([{"name": "labels"}] * 8, ErrorCode.BAD_JSON),
            *(([value], ErrorCode.BAD_OPTION) for value in (None, "labels", 7, [], {}, {"name": None}, {"name": []})),
            ([{"name": "Labels"}], ErrorCode.BAD_OPTION),
            ([{"name": "labels", "parameters": {"classification": 1}}], ErrorCode.BAD_OPTION),
            *(
                ([{"name": "probabilities", "parameters": {"classification": value}}], ErrorCode.BAD_OPTION)
                for value in (0, -1, 1001, True, 1.5, [], "many")
            ),
        ],
    )
    def test_outputs_that_there_are_not_are_refused(self, outputs: object, code: ErrorCode) -> None:
        assert refusal(OPEN_INFERENCE, tensor() | {"outputs": outputs}) is code

    @pytest.mark.parametrize(
        "parameters",
        [
            {"top_k": 3},
            {"shared_memory_region": "x", "shared_memory_byte_size": 40},
            {"binary_data": "yes"},
            {"binary_data": 1},
            ["classification"],
        ],
    )
    def test_an_outputs_parameters_are_not_passed_over_either(self, parameters: object) -> None:
        outputs = [{"name": "labels", "parameters": parameters}]
        assert refusal(OPEN_INFERENCE, tensor() | {"outputs": outputs}) in {ErrorCode.BAD_JSON, ErrorCode.BAD_OPTION}

    @pytest.mark.parametrize("value", ["yes", "true", 1, 0, [], {}])
    def test_binary_data_output_is_true_or_false(self, value: object) -> None:
        assert refusal(OPEN_INFERENCE, tensor() | {"parameters": {"binary_data_output": value}}) is ErrorCode.BAD_OPTION


def answer(outputs: object = None, **parameters: object) -> Reply:
    document = tensor(shape=(2,), data=TEXTS[:2]) | {"id": "42", "outputs": outputs, "parameters": parameters}
    return OPEN_INFERENCE.read(Document(document, {}), Settings()).answer([ROBIN, CRANE], MODEL)


class TestOpenInferenceAnswers:
    """The five tensors of a prediction, or those asked for."""

    @pytest.mark.parametrize("outputs", [None, []])
    def test_all_outputs_as_flat_data_with_their_shapes(self, outputs: object) -> None:
        assert body(answer(outputs)) == {
            "model_name": "densenet",
            "model_version": "1.0",
            "id": "42",
            "outputs": [
                {"name": "probabilities", "datatype": "FP32", "shape": [2, 2], "data": [0.75, 0.25, 0.5, 0.125]},
                {"name": "class_ids", "datatype": "BYTES", "shape": [2, 2], "data": ["n01", "n02", "n02", "n03"]},
                {
                    "name": "labels",
                    "datatype": "BYTES",
                    "shape": [2, 2],
                    "data": ["robin", "crane", "crane", "crane"],
                },
                {"name": "indices", "datatype": "INT64", "shape": [2, 2], "data": [7, 9, 9, 0]},
                {"name": "recognized", "datatype": "BOOL", "shape": [2], "data": [True, True]},
            ],
        }

    def test_those_asked_for_in_that_order(self) -> None:
        outputs = body(answer([{"name": "recognized"}, {"name": "indices"}], min_probability=0.6))["outputs"]
        assert [(row["name"], row["data"]) for row in outputs] == [
            ("recognized", [True, False]),
            ("indices", [7, 9, 9, 0]),
        ]

    @pytest.mark.parametrize(
        ("outputs", "parameters"),
        [
            (None, {"classification": 2}),
            ([{"name": "probabilities"}], {"classification": "2"}),
            ([{"name": "probabilities", "parameters": {"classification": 2}}], {"classification": 1}),
        ],
    )
    def test_classification_is_value_index_and_label(self, outputs: object, parameters: dict[str, object]) -> None:
        (row,) = body(answer(outputs, **parameters))["outputs"]
        assert (row["datatype"], row["shape"]) == ("BYTES", [2, 2])
        assert row["data"] == ["0.75:7:robin", "0.25:9:crane", "0.5:9:crane", "0.125:0:crane"]

    def test_each_output_has_as_many_classes_as_it_was_asked_for(self) -> None:
        asked = [{"name": "probabilities", "parameters": {"classification": 1}}, {"name": "labels"}]
        request = OPEN_INFERENCE.read(Document(tensor() | {"outputs": asked}, {"top_k": 2}), Settings())
        assert request.top_k == 2
        shapes = [row["shape"] for row in body(request.answer([ROBIN, CRANE, CRANE], MODEL))["outputs"]]
        assert shapes == [[3, 1], [3, 2]]

    def test_binary_data_follow_the_json_in_the_order_of_the_outputs(self) -> None:
        reply = answer([{"name": name} for name in ("indices", "labels", "recognized")], binary_data_output=True)
        end = int(reply.headers["Inference-Header-Content-Length"])
        head, blob = json.loads(reply.body[:end]), reply.body[end:]
        blobs = [struct.pack("<4q", 7, 9, 9, 0), framed(b"robin", b"crane", b"crane", b"crane"), b"\1\1"]
        assert (reply.content_type, blob) == ("application/octet-stream", b"".join(blobs))
        assert [row["parameters"]["binary_data_size"] for row in head["outputs"]] == [len(part) for part in blobs]
        assert not any("data" in row for row in head["outputs"])

    @pytest.mark.parametrize(("all_of_them", "this_one"), [(True, False), (False, True)])
    def test_an_outputs_own_word_on_binary_data_wins(self, all_of_them: bool, this_one: bool) -> None:
        asked = [{"name": "labels", "parameters": {"binary_data": this_one}}, {"name": "indices"}]
        reply = answer(asked, binary_data_output=all_of_them)
        rows = json.loads(reply.body[: int(reply.headers["Inference-Header-Content-Length"])])["outputs"]
        assert ["data" in row for row in rows] == [not this_one, not all_of_them]

    def test_an_id_that_was_not_sent_is_not_answered(self) -> None:
        assert "id" not in body(read(OPEN_INFERENCE, tensor()).answer([ROBIN] * 3, MODEL))

    def test_a_bad_image_fails_the_whole_request_and_is_counted_from_one(self) -> None:
        with pytest.raises(RequestError, match=r"^image 2 of 3: it is broken$") as refused:
            read(OPEN_INFERENCE, tensor()).answer([ROBIN, BROKEN, CRANE], MODEL)
        assert refused.value.code is ErrorCode.BROKEN_IMAGE


class TestHuggingFace:
    """One image, as text or as bytes."""

    @pytest.mark.parametrize("text", [TEXTS[0], f"data:image/jpeg;base64,{TEXTS[0]}"])
    def test_inputs_are_an_image_in_base64(self, text: str) -> None:
        request = read(HUGGING_FACE, {"inputs": text, "parameters": {"top_k": 7}})
        assert (request.uploads, request.top_k) == ([Upload(IMAGES[0])], 7)

    @pytest.mark.parametrize("name", ["body", "사진"])
    def test_bytes_are_an_image(self, name: str) -> None:
        options = {"format": "huggingface", "top_k": "7"}
        request = HUGGING_FACE.read(Uploads({name: IMAGES[0]}, options), Settings())
        assert (request.uploads, request.top_k) == ([Upload(IMAGES[0])], 7)

    def test_two_images_are_one_too_many(self) -> None:
        with pytest.raises(RequestError) as refused:
            HUGGING_FACE.read(Uploads({"a": b"a", "b": b"b"}, {"format": "huggingface"}), Settings())
        assert refused.value.code is ErrorCode.TOO_MANY_IMAGES

    @pytest.mark.parametrize(
        ("document", "code"),
        [
            *(({"inputs": value}, ErrorCode.BAD_JSON) for value in (None, 7, 0.5, False, {}, {"b64": TEXTS[0]})),
            ({"inputs": ""}, ErrorCode.NO_IMAGE),
            ({"inputs": "https://example.com/cat.jpg"}, ErrorCode.BAD_BASE64),
            ({"inputs": TEXTS[0], "parameters": {"min_probability": 0.5}}, ErrorCode.BAD_OPTION),
            ({"inputs": TEXTS[0], "parameters": {"format": "json"}}, ErrorCode.BAD_OPTION),
            ({"inputs": TEXTS[0], "parameters": {"function_to_apply": "relu"}}, ErrorCode.BAD_OPTION),
            ({"inputs": TEXTS[0], "parameters": {"function_to_apply": ["softmax"]}}, ErrorCode.BAD_OPTION),
            ({"inputs": TEXTS[0], "parameters": {"function_to_apply": 7}}, ErrorCode.BAD_OPTION),
        ],
    )
    def test_what_it_does_not_have_is_refused(self, document: object, code: ErrorCode) -> None:
        assert refusal(HUGGING_FACE, document) is code

    @pytest.mark.parametrize("function_to_apply", [False, 0, "", [], {}])
    def test_a_function_that_is_empty_is_refused_and_not_taken_for_none(self, function_to_apply: object) -> None:
        parameters = {"function_to_apply": function_to_apply}
        assert refusal(HUGGING_FACE, {"inputs": TEXTS[0], "parameters": parameters}) is ErrorCode.BAD_OPTION

    @pytest.mark.parametrize(
        ("function_to_apply", "scores"),
        [
            (None, [0.5, 0.125]),
            ("softmax", [0.5, 0.125]),
            ("sigmoid", [1 / (1 + math.exp(-0.5)), 0.0]),
            ("none", [0.5, -800.0]),
        ],
    )
    def test_scores_are_what_the_function_makes_of_the_logits(
        self, function_to_apply: str | None, scores: list[float]
    ) -> None:
        request = read(HUGGING_FACE, {"inputs": TEXTS[0], "parameters": {"function_to_apply": function_to_apply}})
        rows = body(request.answer([CRANE], MODEL))
        assert [row["label"] for row in rows] == ["crane", "crane"]
        assert [row["score"] for row in rows] == pytest.approx(scores)

    def test_the_images_failure_is_that_of_the_request(self) -> None:
        with pytest.raises(RequestError, match="it is broken"):
            read(HUGGING_FACE, {"inputs": TEXTS[0]}).answer([BROKEN], MODEL)


@pytest.mark.parametrize(
    "document",
    [
        tensor(shape=[0] * 100_000),
        tensor(shape=[10**4000]),
        tensor(datatype="x" * 100_000),
        tensor(shape="x" * 100_000),
        tensor() | {"id": ["x" * 100_000]},
        tensor() | {"outputs": [{"name": "x" * 100_000}]},
        tensor("FP32", (1, 3, 224, 224), [[]] * 100_000),
        binary(framed(*IMAGES), size="x" * 100_000)["content"],
    ],
)
def test_a_refusal_is_short_however_long_the_request_was(document: object) -> None:
    with pytest.raises(RequestError) as refused:
        read(OPEN_INFERENCE, document)
    assert len(OPEN_INFERENCE.refuse(refused.value).body) < 1000
