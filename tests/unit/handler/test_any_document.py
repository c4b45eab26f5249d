"""Whatever JSON a client sends, in whatever protocol's words: it is answered or refused, and nothing else happens."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from export import bundle
from handler import payload, ranking, routing
from handler.entry import Classifier
from handler.errors import RequestError
from handler.request import Request
from handler.scoring import Scores
from handler.settings import Settings
from tests.photos import encode
from tests.unit.handler.test_entry import make_context

PHOTO = base64.b64encode(encode(Image.new("RGB", (8, 8), "red"), "PNG")).decode()
OUTPUTS = ("probabilities", "class_ids", "labels", "indices", "recognized", "embedding")
KEYS = (
    *("instances", "inputs", "parameters", "outputs", "id", "name", "shape", "datatype", "data", "b64", "image"),
    *("image_bytes", "top_k", "min_probability", "classification", "function_to_apply", "format", "target", "overlays"),
    *("binary_data", "binary_data_output", "binary_data_size", "embedding_norm", "normalize"),
)
WORDS = (
    *(*KEYS, *OUTPUTS, PHOTO, "BYTES", "FP32", "softmax", "sigmoid", "none", "huggingface", "3", "0.5", "QUJD"),
    *("float", "base64", "raw", "l2"),
)
NUMBERS = (0, 1, 2, 3, 5, 16, 17, 224, 1000, 1001, -1, 0.5, 1e39, float("nan"), 10**400, 2**31, 2**63)

scalars = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    *(st.sampled_from(WORDS), st.sampled_from(NUMBERS)),
)
keys = st.sampled_from(KEYS) | st.text(max_size=5)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def mostly(*right: object) -> st.SearchStrategy[Any]:
    """One of what is right in a place, or now and then anything at all."""
    return st.integers(0, 9).flatmap(lambda draw: st.sampled_from(right) if draw else anything)


parameters = mostly(
    {},
    {"target": "crane"},
    {"target": [7, "tench"]},
    {"overlays": "none"},
    {"top_k": 2},
    {"classification": 1},
    {"binary_data_output": True},
    {"min_probability": "0.5"},
    {"embedding": "float"},
    {"embedding": "base64", "embedding_norm": "l2"},
)
instances = st.lists(mostly(PHOTO, {"b64": PHOTO}, {"image": {"b64": PHOTO}}), min_size=1, max_size=3)
tensors = st.one_of(
    st.fixed_dictionaries({"datatype": mostly("BYTES"), "shape": mostly([1], [1, 1]), "data": mostly([PHOTO])}),
    st.fixed_dictionaries(
        {
            "datatype": mostly("BYTES", "FP32"),
            "shape": mostly([1], [1, 3, 224, 224]),
            "parameters": mostly({"binary_data_size": 7}, {"binary_data_size": 602112}),
        }
    ),
)
outputs = st.lists(st.fixed_dictionaries({"name": mostly(*OUTPUTS)}, optional={"parameters": parameters}), max_size=3)
documents = st.one_of(
    st.fixed_dictionaries({"instances": instances}, optional={"parameters": parameters}),
    st.fixed_dictionaries(
        {"inputs": mostly(PHOTO, [PHOTO], [PHOTO, "?"])},
        optional={"parameters": parameters, "normalize": mostly(True, False)},
    ),
    st.fixed_dictionaries(
        {"inputs": st.lists(tensors, min_size=1, max_size=1)},
        optional={"parameters": parameters, "outputs": outputs, "id": mostly("42")},
    ),
    st.dictionaries(st.sampled_from(KEYS), instances | tensors | parameters | outputs | anything, max_size=4),
    anything,
)
# What follows the JSON; the last one is a preprocessed image.
appended = st.sampled_from([b"", b"", b"\3\0\0\0abc", b"\xff\xff\xff\xff", bytes(602112)])
headers = st.sampled_from(
    [
        *({}, {}, {"Content-Type": "application/json"}, {"X-Format": "huggingface"}, {"X-Top-K": "0"}),
        *({"X-Embedding": "float"}, {"X-Embedding": "base64"}, {"X-Embedding-Norm": "l2"}),
        *({"explain": "False"}, {"explain": "True"}, {"explain": "True", "X-Overlays": "none"}),
    ]
)
CLASSES = ranking.load_class_index(bundle.IMAGENET_CLASSES)
EXAMPLES = settings(max_examples=300, derandomize=True, deadline=None)
Row = tuple[dict[str, Any], dict[str, Any]]


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A row and its headers, as TorchServe hands them over."""
    text, tail = json.dumps(draw(documents)).encode(), draw(appended)
    length = {"Inference-Header-Content-Length": str(draw(mostly(len(text))))} if tail else {}
    return {"body": bytearray(text + tail)}, length | draw(headers)


def read(row: Mapping[str, object], headers: Mapping[str, object]) -> Request | RequestError:
    request = payload.Row.make(row, headers)
    try:
        received = payload.read(request)
        protocol = routing.detect_protocol(received, request.headers)
        if payload.wants_explanations(request.headers):
            return protocol.explain(received, Settings(), CLASSES)
        return protocol.read(received, Settings())
    except RequestError as failure:
        return failure


@given(row=rows())
@EXAMPLES
def test_any_document_is_read_or_refused(row: Row) -> None:
    outcome = read(*row)
    if isinstance(outcome, RequestError):
        refuse = routing.fallback_protocol(row[0], payload.normalize_headers(row[1])).refuse
        assert 400 <= refuse(outcome).status < 500
    else:
        assert 1 <= len(outcome.uploads) <= Settings().max_images
        assert 1 <= outcome.top_k <= 1000


@given(document=documents)
@EXAMPLES
def test_a_document_that_torchserve_has_parsed_is_read_or_refused_too(document: object) -> None:
    outcome = read({"body": document}, {})
    assert not isinstance(outcome, RequestError) or outcome.code.status < 500


@pytest.fixture(scope="module")
def classifier(exported: Path) -> Classifier:
    """The handler with a network that answers at once."""
    classifier = Classifier()
    classifier.initialize(make_context(exported))
    classifier.pipeline.score_batch = (
        lambda batch: Scores(  # type: ignore[method-assign]
            batch.flatten(1)[:, :1000], batch.flatten(1)[:, : 49 * 1024].view(-1, 49, 1024)
        )
    )
    return classifier


@given(row=rows())
@EXAMPLES
def test_any_document_is_answered_by_the_handler(classifier: Classifier, exported: Path, row: Row) -> None:
    context = make_context(exported, headers=row[1])
    (body,) = classifier.handle([row[0]], context)
    status, _ = context.get_response_status(0)
    assert 200 <= status < 500
    if status != 200:
        error = json.loads(body)
        assert error.keys() == {"error", "code"} or error["error"].keys() == {"code", "message"}
        assert len(body) < 2000


@given(batch=st.lists(rows(), min_size=2, max_size=4))
@settings(EXAMPLES, max_examples=100)
def test_any_documents_in_one_batch_are_answered_as_each_alone(
    classifier: Classifier, exported: Path, batch: list[Row]
) -> None:
    together = make_context(exported, rows=len(batch))
    for processor, (_, headers) in zip(together.request_processor, batch, strict=True):
        processor.get_request_properties().update(headers)
    alone = [classifier.handle([row], make_context(exported, headers=headers)) for row, headers in batch]
    assert classifier.handle([row for row, _ in batch], together) == [body for (body,) in alone]
