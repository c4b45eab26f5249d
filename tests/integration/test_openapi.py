"""The OpenAPI document against a real TorchServe: what it serves, what it answers, and what a generator makes of it."""

import base64
import copy
import gzip
import io
import json
import re
import struct
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.specs.openapi.checks import negative_data_rejection, unsupported_method
from schemathesis.transport.serialization import Binary

from densenet.fuzz.files.bmp import early_end_of_line
from handler import payload
from handler.errors import ErrorCode
from handler.request import MAX_OVERLAY_IMAGES
from tests.integration.conftest import Server
from tests.openapi import DOCUMENT, check, check_response, component, resolve
from tests.photos import cutouts, encode

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
PHOTOS = [encode(image.resize((48, 36)), kind) for image, kind in zip(cutouts(4), FORMATS, strict=True)]
PHOTO = PHOTOS[0]
BASE64 = base64.b64encode(PHOTO).decode()
TEXT = base64.b64encode(b"text").decode()
BROKEN = PHOTO[:200]
VERSION = "1.0"
TARGET_CLASSES = ("285", "n02124075", "Egyptian_cat", "toilet tissue")
PART_NAME = DOCUMENT["components"]["schemas"]["Form"]["propertyNames"]["pattern"]

PREDICTIONS, WITH_VERSION = "/predictions/densenet", "/predictions/densenet/{version}"
EXPLANATIONS, V1_EXPLAIN = "/explanations/densenet", "/v1/models/densenet:explain"
INVOKE, V1, V2 = "/models/densenet/invoke", "/v1/models/densenet:predict", "/v2/models/densenet/infer"


def raw(content: bytes, media_type: str = "application/octet-stream", **headers: str) -> dict[str, Any]:
    return {"data": content, "headers": {"Content-Type": media_type, **headers}}


def form(*contents: bytes | str, **fields: str) -> dict[str, Any]:
    return {"files": {f"part {i}": content for i, content in enumerate(contents)}, "data": fields}


def multipart(body: bytes) -> dict[str, Any]:
    return raw(body, "multipart/form-data; boundary=xyz")


def instances(*rows: object, **parameters: object) -> dict[str, Any]:
    return {"json": {"instances": rows, "parameters": parameters}}


def hugging_face(image: str, **parameters: object) -> dict[str, Any]:
    return {"json": {"inputs": image, "parameters": parameters}}


def bytes_tensor(*images: str) -> dict[str, Any]:
    return {"name": "image", "shape": [len(images)], "datatype": "BYTES", "data": images}


def tensors(tensor: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"json": {"inputs": [tensor], **more}}


def binary(tensor: dict[str, Any], content: bytes, **more: object) -> dict[str, Any]:
    described = tensor | {"parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [described], **more}).encode()
    return raw(head + content, **{"Inference-Header-Content-Length": str(len(head))})


def numbers(value: float = 0.0) -> list[Any]:
    return [[[value] * 224] * 224] * 3


def too_many_pixels() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    return buffer.getvalue()


ELEMENT = struct.pack("<I", len(PHOTO)) + PHOTO
BINARY_TENSOR = {"name": "image", "shape": [1], "datatype": "BYTES"}
PREPROCESSED = {"name": "image", "shape": [1, 3, 224, 224], "datatype": "FP32"}

# What is sent: status, and the schema of its answer or its code; None where the answer is no JSON.
Row = tuple[dict[str, Any], int, str | ErrorCode | None]

ALWAYS: dict[str, Row] = {
    "nothing": (raw(b""), 400, ErrorCode.NO_IMAGE),
    "headers too long": (raw(PHOTO, Comment="x" * 9000), 400, "TorchServeError"),
    "more than 10 MiB": (raw(bytes(10 * 2**20 + 1)), 413, None),
}
INSTANCES: dict[str, Row] = {
    "one instance": (instances({"b64": BASE64}), 200, "Predictions"),
    "spellings": (
        instances(BASE64, {"image": BASE64}, {"image_bytes": {"b64": BASE64}}, {"data": numbers()}),
        200,
        "Predictions",
    ),
    "bad instances": (
        instances({"b64": BASE64}, "?", "", 7, TEXT, [1, 2], base64.b64encode(BROKEN).decode(), top_k=2),
        200,
        "Predictions",
    ),
    "bad images": (
        instances(*(base64.b64encode(content).decode() for content in (b"%PDF-1.7", too_many_pixels()))),
        200,
        "Predictions",
    ),
    "no instance": (instances(), 400, ErrorCode.BAD_JSON),
    "a bad parameter": (instances(BASE64, top_k=0), 400, ErrorCode.BAD_OPTION),
    "17 instances": (instances(*[BASE64] * 17), 413, ErrorCode.TOO_MANY_IMAGES),
    "broken JSON": (raw(b'{"instances": [', "application/json"), 400, ErrorCode.BAD_JSON),
}
EMBEDDED_INSTANCES: dict[str, Row] = {
    "embeddings of instances": (
        instances(BASE64, "?", embedding="float", embedding_norm="l2", top_k=1),
        200,
        "Predictions",
    ),
}
TENSORS: dict[str, Row] = {
    "images": (tensors(bytes_tensor(BASE64, BASE64), id="42"), 200, "Tensors"),
    "images in a batch dimension": (
        tensors({"shape": [2, 1], "datatype": "BYTES", "data": [[BASE64], [BASE64]]}, parameters={"top_k": 3}),
        200,
        "Tensors",
    ),
    "numbers": (tensors(PREPROCESSED | {"data": [numbers()]}), 200, "Tensors"),
    "flat numbers": (tensors(PREPROCESSED | {"data": [0.0] * 150528}), 200, "Tensors"),
    "chosen outputs": (
        tensors(bytes_tensor(BASE64), outputs=[{"name": "labels"}, {"name": "indices"}]),
        200,
        "Tensors",
    ),
    "classification": (
        tensors(bytes_tensor(BASE64), outputs=[{"name": "probabilities", "parameters": {"classification": 2}}]),
        200,
        "Tensors",
    ),
    "binary in": (binary(BINARY_TENSOR, ELEMENT), 200, "Tensors"),
    "binary out": (tensors(bytes_tensor(BASE64), parameters={"binary_data_output": True}), 200, "Tensors"),
    "binary in and in part out": (
        binary(
            PREPROCESSED,
            bytes(4 * 150528),
            outputs=[{"name": "labels"}, {"name": "recognized", "parameters": {"binary_data": True}}],
        ),
        200,
        "Tensors",
    ),
    "embeddings": (
        tensors(bytes_tensor(BASE64, BASE64), outputs=[{"name": "embedding"}], parameters={"embedding_norm": "l2"}),
        200,
        "Tensors",
    ),
    "binary embeddings": (
        tensors(bytes_tensor(BASE64), outputs=[{"name": "embedding", "parameters": {"binary_data": True}}]),
        200,
        "Tensors",
    ),
    "an unknown output": (tensors(bytes_tensor(BASE64), outputs=[{"name": "logits"}]), 400, ErrorCode.BAD_OPTION),
    "no tensor": ({"json": {"inputs": []}}, 400, ErrorCode.BAD_JSON),
    "no base64": (tensors(bytes_tensor("?")), 400, ErrorCode.BAD_BASE64),
    "a wrong shape": (tensors(bytes_tensor(BASE64) | {"shape": [2]}), 400, ErrorCode.BAD_TENSOR),
    "binary data cut short": (binary(BINARY_TENSOR, ELEMENT[:-1]), 400, ErrorCode.BAD_TENSOR),
    "17 in a tensor": (tensors(bytes_tensor(*[BASE64] * 17)), 413, ErrorCode.TOO_MANY_IMAGES),
    "an id that makes the answer too large": (
        tensors(bytes_tensor(BASE64), id="x" * 6_100_000),
        413,
        ErrorCode.ANSWER_TOO_LARGE,
    ),
    "text in a tensor": (tensors(bytes_tensor(TEXT)), 415, ErrorCode.NOT_AN_IMAGE),
    "a broken image in a tensor": (
        tensors(bytes_tensor(base64.b64encode(BROKEN).decode())),
        422,
        ErrorCode.BROKEN_IMAGE,
    ),
}
IMAGES: dict[str, Row] = {
    "an image": (raw(PHOTO), 200, "Prediction"),
    "an image by its type": (raw(PHOTO, "image/jpeg", **{"X-Top-K": "1000"}), 200, "Prediction"),
    "a form": (form(PHOTO), 200, "Prediction"),
    "a form with options": (form(PHOTO, top_k="3", min_probability="1"), 200, "Prediction"),
    "a form with several images": (form(PHOTO, b"", b"\0", BROKEN, too_many_pixels(), b"%PDF-1.7\0"), 200, "Results"),
    "text": (raw(b"text"), 415, ErrorCode.NOT_AN_IMAGE),
    "a PDF": (raw(b"%PDF-1.7"), 415, ErrorCode.UNSUPPORTED_FORMAT),
    "a broken image": (raw(BROKEN), 422, ErrorCode.BROKEN_IMAGE),
    "an image that costs too much": (raw(early_end_of_line()), 422, ErrorCode.TOO_COSTLY),
    "too many pixels": (raw(too_many_pixels()), 413, ErrorCode.TOO_MANY_PIXELS),
    "17 parts": (form(*[PHOTO] * 17), 413, ErrorCode.TOO_MANY_IMAGES),
    "a bad option": (raw(PHOTO, **{"X-Top-K": "0"}), 400, ErrorCode.BAD_OPTION),
    "a form cut short": (multipart(b"--xyz\r\nContent-Disposition: form"), 400, ErrorCode.BAD_FORM),
    "an urlencoded form": (raw(b"a=b", "application/x-www-form-urlencoded"), 400, ErrorCode.BAD_FORM),
    "a forgotten @": ({"files": {"file": (None, "cat.jpg")}}, 400, ErrorCode.UNKNOWN_FIELD),
    "a name twice": ({"files": [("file", ("a.jpg", PHOTO)), ("file", ("b.jpg", PHOTO))]}, 200, "Results"),
    "an option twice": (
        {"files": [("file", PHOTO), ("top_k", (None, "1")), ("top_k", (None, "2"))]},
        400,
        ErrorCode.REPEATED_PART,
    ),
    "a compressed image": (raw(gzip.compress(PHOTO), **{"Content-Encoding": "gzip"}), 200, "Prediction"),
    "no compressed image": (raw(PHOTO, **{"Content-Encoding": "gzip"}), 415, ErrorCode.BAD_ENCODING),
    "a compressed bomb": (
        raw(gzip.compress(bytes(10 * 2**20 + 1)), **{"Content-Encoding": "gzip"}),
        413,
        ErrorCode.BODY_TOO_LARGE,
    ),
    "a part without a name": (
        multipart(b"--xyz\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xyz--\r\n"),
        500,
        "TorchServeError",
    ),
}
EMBEDDED: dict[str, Row] = {
    "an embedding": (raw(PHOTO, **{"X-Embedding": "float"}), 200, "Prediction"),
    "embeddings of a form": (form(PHOTO, PHOTO, embedding="base64", embedding_norm="l2"), 200, "Results"),
    "logits of a prediction": (raw(PHOTO, **{"X-Logits": "true"}), 200, "Prediction"),
    "no switch": (raw(PHOTO, **{"X-Logits": "maybe"}), 400, ErrorCode.BAD_OPTION),
    "no embedding": (raw(PHOTO, **{"X-Embedding": "yes"}), 400, ErrorCode.BAD_OPTION),
}
HUGGING_FACE: dict[str, Row] = {
    "for Hugging Face": (hugging_face(BASE64, top_k=3), 200, "Scores"),
    "logits": (hugging_face(BASE64, function_to_apply="none"), 200, "Scores"),
    "bytes for Hugging Face": (raw(PHOTO, **{"X-Format": "huggingface"}), 200, "Scores"),
    "features": (hugging_face(BASE64, embedding="float"), 200, "Embeddings"),
    "features of several": (
        {"json": {"inputs": [BASE64, BASE64], "normalize": True}, "headers": {"X-Embedding": "float"}},
        200,
        "Embeddings",
    ),
    "several without embeddings": ({"json": {"inputs": [BASE64, BASE64]}}, 400, ErrorCode.BAD_JSON),
    "no base64 for Hugging Face": (hugging_face("?"), 400, ErrorCode.BAD_BASE64),
    "text for Hugging Face": (raw(b"text", **{"X-Format": "huggingface"}), 415, ErrorCode.NOT_AN_IMAGE),
    "several for Hugging Face": (form(PHOTO, PHOTO, format="huggingface"), 413, ErrorCode.TOO_MANY_IMAGES),
}
# The same requests at the addresses of explanations: what their answers are then.
OF_EXPLANATIONS = {
    "Prediction": "ExplainedPrediction",
    "Results": "ExplainedResults",
    "Predictions": "Explanations",
}


def explained(rows: dict[str, Row]) -> dict[str, Row]:
    return {
        what: (request, status, OF_EXPLANATIONS.get(answer or "", answer))
        for what, (request, status, answer) in rows.items()
    }


TARGETS: dict[str, Row] = {
    "a class": (raw(PHOTO, **{"X-Target": "Egyptian cat"}), 200, "ExplainedPrediction"),
    "several classes": (form(PHOTO, target="n02124075,7", overlays="none"), 200, "ExplainedPrediction"),
    "a picture": (raw(PHOTO, Accept="image/png"), 200, None),
    "a picture of the whole": (raw(PHOTO, Accept="image/png", **{"X-Overlays": "picture"}), 200, None),
    "a picture of several images": (
        form(PHOTO, PHOTO) | {"headers": {"Accept": "image/png"}},
        413,
        ErrorCode.TOO_MANY_IMAGES,
    ),
    "a picture of text": (raw(b"text", Accept="image/png"), 415, ErrorCode.NOT_AN_IMAGE),
    "no class": (raw(PHOTO, **{"X-Target": "unicorn"}), 400, ErrorCode.BAD_OPTION),
    "a class of two": (form(PHOTO, target="crane"), 400, ErrorCode.BAD_OPTION),
    "no overlay": (form(PHOTO, overlays="all"), 400, ErrorCode.BAD_OPTION),
    "tensors": (tensors(bytes_tensor(BASE64)), 400, ErrorCode.BAD_OPTION),
    "Hugging Face": (hugging_face(BASE64), 400, ErrorCode.BAD_OPTION),
    "bytes for Hugging Face": (raw(PHOTO, **{"X-Format": "huggingface"}), 400, ErrorCode.BAD_OPTION),
}
EXPLAINED_INSTANCES: dict[str, Row] = explained(INSTANCES) | {
    "instances' classes": (instances(BASE64, numbers(), target=["n02124075", 7, "tench"]), 200, "Explanations"),
    "no class of instances": (instances(BASE64, target=1000), 400, ErrorCode.BAD_OPTION),
}
EXPLAINED = ALWAYS | explained(IMAGES) | EXPLAINED_INSTANCES | TARGETS
ANYTHING = ALWAYS | IMAGES | EMBEDDED | INSTANCES | EMBEDDED_INSTANCES | TENSORS | HUGGING_FACE
DESCRIPTION: dict[str, Row] = {
    "no Accept": ({}, 400, ErrorCode.NO_IMAGE),
    "a browser": ({"headers": {"Accept": "text/html,*/*;q=0.8"}}, 200, None),
    "a program": ({"headers": {"Accept": "application/vnd.oai.openapi+json"}}, 200, None),
    "a probe": ({"headers": {"Accept": "application/health+json"}}, 200, "HealthCheck"),
}
TABLE: dict[tuple[str, str], dict[str, Row]] = {
    ("get", PREDICTIONS): DESCRIPTION,
    ("post", PREDICTIONS): ANYTHING,
    ("put", PREDICTIONS): ANYTHING,
    ("post", WITH_VERSION): ANYTHING,
    ("post", EXPLANATIONS): EXPLAINED,
    ("put", EXPLANATIONS): EXPLAINED,
    ("post", INVOKE): ANYTHING
    | {
        "a query": (raw(PHOTO) | {"params": {"format": "huggingface"}}, 200, "Scores"),
        "an embedding by query": (raw(PHOTO) | {"params": {"embedding": "base64"}}, 200, "Prediction"),
        "features by query": ({"json": {"inputs": BASE64}, "params": {"embedding": "float"}}, 200, "Embeddings"),
        "an option twice": (form(PHOTO, top_k="2") | {"params": {"top_k": "3"}}, 200, "Prediction"),
    },
    ("post", V1): ALWAYS | INSTANCES | EMBEDDED_INSTANCES,
    ("post", V1_EXPLAIN): ALWAYS | EXPLAINED_INSTANCES,
    ("post", V2): ALWAYS | TENSORS,
    ("get", "/ping"): {"up": ({}, 200, "Health")},
}
ROWS = [
    pytest.param(method, path, *row, id=f"{method} {path} {what}")
    for (method, path), rows in TABLE.items()
    for what, row in rows.items()
]


def ask(server: Server, method: str, path: str, **request: Any) -> requests.Response:
    url = server.service.inference + path.format(version=VERSION)
    return requests.request(method, url, timeout=60, **request)


def with_data(response: requests.Response) -> dict[str, Any]:
    """The JSON of an answer in which tensors may be binary, with their elements put back."""
    size = int(response.headers.get("Inference-Header-Content-Length", len(response.content)))
    answer: dict[str, Any] = json.loads(response.content[:size])
    rest = response.content[size:]
    for tensor in answer.get("outputs", []) if size < len(response.content) else ():
        if "parameters" in tensor:
            size = tensor.pop("parameters")["binary_data_size"]
            tensor["data"], rest = elements(tensor["datatype"], rest[:size]), rest[size:]
    assert not rest
    return answer


def elements(datatype: str, content: bytes) -> list[Any]:
    if datatype != "BYTES":
        return [
            value for (value,) in struct.iter_unpack({"FP32": "<f", "INT64": "<q", "BOOL": "<?"}[datatype], content)
        ]
    texts = []
    while content:
        (length,) = struct.unpack_from("<I", content)
        texts.append(content[4 : 4 + length].decode())
        content = content[4 + length :]
    return texts


@pytest.mark.parametrize(("method", "path", "request_", "status", "what"), ROWS)
def test_an_answer_is_as_the_document_says(
    server: Server, method: str, path: str, request_: dict[str, Any], status: int, what: str | ErrorCode | None
) -> None:
    response = ask(server, method, path, **request_)
    assert response.status_code == status, response.text[:500]
    check_response(response, path, method)
    if isinstance(what, ErrorCode):
        answer = response.json()
        assert what == (answer["code"] if "code" in answer else answer["error"]["code"])
    elif what is not None:
        check(with_data(response), component(what))


def test_every_code_and_status_was_provoked_that_a_client_can_provoke() -> None:
    codes = {what for rows in TABLE.values() for _, _, what in rows.values() if isinstance(what, ErrorCode)}
    assert codes == set(ErrorCode) - {ErrorCode.INTERNAL_ERROR, ErrorCode.DRAINING}
    for (method, path), rows in TABLE.items():
        documented = set(DOCUMENT["paths"][path][method]["responses"])
        # These need another service than this one: one without the model, with a defect, or with dying workers.
        assert documented - {str(status) for _, status, _ in rows.values()} <= {"404", "500", "503", "507"}


def test_a_version_that_is_not_there_is_answered_as_documented(server: Server) -> None:
    response = requests.post(f"{server.url}/9.9", data=PHOTO, timeout=60)
    assert response.status_code == 404
    check_response(response, WITH_VERSION, "post")


@pytest.mark.parametrize("path", [path for path in DOCUMENT["paths"] if path != "/ping"])
def test_every_address_serves_the_document(server: Server, path: str) -> None:
    response = ask(server, "get", path, headers={"Accept": "application/vnd.oai.openapi+json"})
    assert response.headers["Content-Type"] == "application/vnd.oai.openapi+json"
    assert response.json() == DOCUMENT


@pytest.mark.parametrize("path", ["/invocations", "/densenet/predict"])
def test_the_other_addresses_that_it_names_lead_to_the_same_handler(server: Server, path: str) -> None:
    assert path in DOCUMENT["info"]["description"]
    assert ask(server, "post", path, **raw(PHOTO)).json() == server.send(PHOTO).json()


@pytest.mark.parametrize(("method", "path"), TABLE)
def test_its_own_example_requests_are_answered(server: Server, method: str, path: str) -> None:
    body = resolve(DOCUMENT["paths"][path][method].get("requestBody", {"content": {}}))
    for example in body["content"].get("application/json", {"examples": {}})["examples"].values():
        response = ask(server, method, path, json=resolve(example)["value"])
        assert response.status_code == 200
        check_response(response, path, method)


# Real photos where the document says image: random bytes would never get past a signature.
schemathesis.openapi.format("photo", st.sampled_from(PHOTOS).map(Binary))
schemathesis.openapi.format("photo in base64", st.sampled_from([base64.b64encode(photo).decode() for photo in PHOTOS]))


def load(*, systematic: bool) -> Any:
    """The document as a generator can use it: a few photos at a time, for the one version that is there, classes that
    the model has, and no tensor of numbers, for 150 528 are more than Hypothesis makes.

    systematic: every parameter and property in turn at and over its limits, too; a thousand requests for all addresses.
    """
    document = copy.deepcopy(DOCUMENT)
    document["components"]["parameters"]["Version"]["schema"] = {"const": VERSION}
    schemas = document["components"]["schemas"]
    schemas["File"]["format"] = "photo"
    schemas["Base64"]["format"] = "photo in base64"
    schemas["Target"] = {"enum": [*TARGET_CLASSES, int(TARGET_CLASSES[0])]}
    for request in ("InstancesRequest", "ExplainInstancesRequest"):
        schemas[request]["properties"]["instances"]["maxItems"] = 3
    schemas["EncodedImages"]["properties"]["data"]["anyOf"][0]["maxItems"] = 3
    schemas["HuggingFaceRequest"]["properties"]["inputs"]["anyOf"][1]["maxItems"] = 3
    schemas["BareInstance"]["anyOf"].remove(component("PreprocessedImage"))
    schemas["TensorsRequest"]["properties"]["inputs"]["items"]["oneOf"].remove(component("PreprocessedImages"))
    loaded = schemathesis.openapi.from_dict(document, config=schemathesis.Config())
    loaded.config.phases.coverage.enabled = systematic
    return loaded


def mend(case: schemathesis.Case) -> None:
    """Keeps to what the document says in words, where no schema can say it."""
    form = case.body if case.media_type == "multipart/form-data" and isinstance(case.body, dict) else None
    for name in [*(form or ())]:
        if not re.search(PART_NAME, name):  # 500, by TorchServe
            del form[name]
    if case.path == V2 and isinstance(case.body, Binary):  # an image, without the header
        request = binary(BINARY_TENSOR, struct.pack("<I", len(case.body.data)) + case.body.data)
        case.body = request["data"]
        case.headers.update(request["headers"])
    elif case.meta.generation.mode.is_positive:
        make_acceptable(case, form)


def make_acceptable(case: schemathesis.Case, form: dict[str, Any] | None) -> None:
    """Chooses the headers and options that go with a body; a body that is as its schema says."""
    if case.method == "GET":
        case.headers["Accept"] = "text/html"
    if form is not None and form.keys() <= set(payload.OPTIONS):
        form["file"] = Binary(PHOTO)
    kind = "image" if isinstance(case.body, Binary) else "form" if form is not None else "JSON"
    match case.body:
        case {"inputs": [str(), *_], **rest} if "instances" not in rest:
            kind = "hugging face"
            case.body["parameters"] = case.body.get("parameters", {}) | {"embedding": "float"}
        case {"inputs": [*tensors_], **rest} if "instances" not in rest:
            kind = "tensors"
            for tensor in tensors_:
                count = len(tensor["data"]) if isinstance(tensor["data"], list) else 1
                tensor["shape"] = [count, *tensor["shape"][1:]] if isinstance(tensor["shape"], list) else count
        case {"instances": [*images]}:
            for image in images:
                if isinstance(image, dict):
                    image.pop("target", None)  # all have the same one, or none
        case {"inputs": str(), **rest} if "instances" not in rest:
            kind = "hugging face"
    if case.path in (EXPLANATIONS, V1_EXPLAIN):
        keep_pictures_few(case.body, form)
    unfit = {"Inference-Header-Content-Length"}
    if kind != "image":
        unfit |= {"format", "X-Format"}
    places = (case.headers, case.query, form or {})
    if kind == "hugging face" or (kind == "image" and any({"format", "X-Format"} & {*place} for place in places)):
        unfit |= {"min_probability", "X-Min-Probability", "logits", "X-Logits"} | {
            "embedding",
            "X-Embedding",
        }  # perhaps base64
    if kind == "tensors":
        unfit |= {"logits", "X-Logits", "embedding", "X-Embedding"}
        drop_outputs_of_calibrated_models(case.body)
    for place in places:
        for name in unfit:
            place.pop(name, None)


def drop_outputs_of_calibrated_models(body: Any) -> None:
    """The tests' model is not one, so it has no unknown_score; whether a model is one, no schema can say."""
    for output in body.get("outputs", []):
        if output["name"] == "unknown_score":
            output["name"] = "recognized"


def keep_pictures_few(body: Any, form: dict[str, Any] | None) -> None:
    """How many an answer would hold is a product, which no schema can say."""
    match body:
        case {"instances": [*images], "parameters": {"target": [*targets]} as options}:
            count = len(images) * len(targets)
        case {"instances": [*images]}:
            count, options = len(images), body.setdefault("parameters", {})
        case _ if form is not None:
            count, options = len(form.keys() - set(payload.OPTIONS)), form
        case _:
            return
    if 2 * count > MAX_OVERLAY_IMAGES:
        options["overlays"] = "none"


def call_and_validate(case: schemathesis.Case, server: Server) -> None:
    mend(case)
    case.call_and_validate(
        base_url=server.service.inference,
        timeout=60,
        excluded_checks=[
            # TorchServe runs inference for any method.
            unsupported_method,
            # A bad instance or part is an error in its place, in an answer of status 200; a header that an option in
            # the body comes before is not looked at, nor one that nobody knows.
            negative_data_rejection,
        ],
    )


GENERATED = settings(max_examples=25, derandomize=True, database=None, deadline=None)


@load(systematic=False).parametrize()
@GENERATED
def test_generated_requests_are_answered_as_the_document_says(case: schemathesis.Case, server: Server) -> None:
    call_and_validate(case, server)


# The address that has everything: all bodies, all headers, and the query.
@load(systematic=True).include(path=INVOKE).parametrize()
@GENERATED
def test_every_parameter_and_property_is_as_the_document_says(case: schemathesis.Case, server: Server) -> None:
    call_and_validate(case, server)
