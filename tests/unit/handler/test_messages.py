"""What messages say of a client's value: the value itself or its own kind, and nothing that it is not."""

import json
import math
import re
from collections.abc import Callable

import pytest

from handler import routing
from handler.errors import RequestError
from handler.messages import quote_for_message
from handler.options import ExplainOptions, Options
from handler.payload import Document
from handler.protocols import HUGGING_FACE, KSERVE_V1, OPEN_INFERENCE
from handler.ranking import ClassIndex
from handler.settings import Settings

CLASSES = ClassIndex(*[tuple(f"{kind}{i}" for i in range(20)) for kind in ("n", "class ")])
VALUES: list[object] = [
    *(None, True, False, 0, -1, 7, 2.0, 2.5, 10**400, math.nan, math.inf),
    *("", " ", "text", "not a list", "x" * 5000, "\n[PID]1", "사진", "https://example.com/a.jpg"),
    *([], [[]], [1, 2], [None], ["text"], ["x" * 5000] * 9, [[[1]]], [{}], [2.0]),
    *({}, {"name": "labels"}, {"": None}, {"x" * 5000: {}}, {"a": 1, "b": [2], "c": {}, "d": 4}),
]
TENSOR = {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["QUJD"]}


def tensor(**changes: object) -> Document:
    return Document({"inputs": [TENSOR | changes]}, {})


def v2(**changes: object) -> Document:
    return Document({"inputs": [TENSOR], **changes}, {})


def parameter(name: str) -> Callable[[object], object]:
    return lambda value: OPEN_INFERENCE.read(v2(parameters={name: value}), Settings())


def instance(value: object) -> None:
    for upload in KSERVE_V1.read(Document({"instances": [value]}, {}), Settings()).uploads:
        if isinstance(upload.content, RequestError):
            raise upload.content


def element(value: object) -> None:
    for upload in OPEN_INFERENCE.read(tensor(data=[value]), Settings()).uploads:
        if isinstance(upload.content, RequestError):
            raise upload.content


def hugging_face(name: str) -> Callable[[object], object]:
    return lambda value: HUGGING_FACE.read(Document({"inputs": "QUJD", "parameters": {name: value}}, {}), Settings())


# Every place in which a client's value is part of a message.
PLACES: dict[str, Callable[[object], object]] = {
    "document": lambda value: routing.detect_protocol(Document(value, {}), {}),
    "top_k": parameter("top_k"),
    "min_probability": parameter("min_probability"),
    "classification": parameter("classification"),
    "binary_data_output": parameter("binary_data_output"),
    "parameters": lambda value: KSERVE_V1.read(Document({"instances": ["QUJD"], "parameters": value}, {}), Settings()),
    "a parameter's name": lambda value: parameter(str(value))(1),
    "target": lambda value: ExplainOptions.read({"target": value}, CLASSES),
    "overlays": lambda value: ExplainOptions.read({"overlays": value}, CLASSES),
    "min_probability in a form": lambda value: Options.read({"min_probability": value}, Settings()),
    "instances": lambda value: KSERVE_V1.read(Document({"instances": value}, {}), Settings()),
    "an instance": instance,
    "an instance's image": lambda value: instance({"image": value}),
    "inputs of Hugging Face": lambda value: HUGGING_FACE.read(Document({"inputs": value}, {}), Settings()),
    "function_to_apply": hugging_face("function_to_apply"),
    "format": hugging_face("format"),
    "id": lambda value: OPEN_INFERENCE.read(v2(id=value), Settings()),
    "an input": lambda value: OPEN_INFERENCE.read(Document({"inputs": [value]}, {}), Settings()),
    "datatype": lambda value: OPEN_INFERENCE.read(tensor(datatype=value), Settings()),
    "shape": lambda value: OPEN_INFERENCE.read(tensor(shape=value), Settings()),
    "data": lambda value: OPEN_INFERENCE.read(tensor(data=value), Settings()),
    "data of numbers": lambda value: OPEN_INFERENCE.read(
        tensor(datatype="FP32", shape=[1, 3, 224, 224], data=value), Settings()
    ),
    "an element": element,
    "binary_data_size": lambda value: OPEN_INFERENCE.read(tensor(parameters={"binary_data_size": value}), Settings()),
    "outputs": lambda value: OPEN_INFERENCE.read(v2(outputs=value), Settings()),
    "an output": lambda value: OPEN_INFERENCE.read(v2(outputs=[value]), Settings()),
    "an output's name": lambda value: OPEN_INFERENCE.read(v2(outputs=[{"name": value}]), Settings()),
}
KINDS = {"a list": list, "an object": dict, "text": str, "true or false": bool}
# What a message says of a value: "must be a list …, not [1]", "is 'x'; it must be …", "unknown output 'x'; …".
WANTED = re.compile(r"must be (a list|an object|text|true or false|a whole number|a number)\b")
SHOWN = re.compile(
    r"(?:, not|numbers:|unknown output|target|the input is|\bis) (\[|\{|'|null|true|false|-?[0-9]|NaN|Infinity)"
)


def kind_of(start: str) -> type:
    starts = {"[": list, "{": dict, "'": str, "null": type(None), "true": bool, "false": bool}
    return starts.get(start, float)


def plain(value: object) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


@pytest.mark.parametrize("place", PLACES)
def test_a_message_shows_a_value_as_what_it_is_and_never_contradicts_itself(place: str) -> None:
    for value in VALUES:
        try:
            PLACES[place](value)
        except RequestError as error:
            check(error.message, value)


def check(message: str, value: object) -> None:
    assert len(message) < 600
    assert message.isprintable()
    assert not re.search(r", not (a list|an object|a number|text)\b", re.sub(r"'[^']*'", "", message)), message
    shown = SHOWN.search(message)
    is_counted = isinstance(value, list) and re.search(
        r"at most|one tensor|must name", message
    )  # then its length is shown
    if shown and not is_counted:
        datatype = [TENSOR["datatype"]] if message.startswith("the input is") else []  # it is shown before the shape
        assert kind_of(shown[1]) in map(plain, [value, *parts(value), *datatype]), message
    wanted = WANTED.search(message)
    if wanted and wanted[1] in KINDS and isinstance(value, KINDS[wanted[1]]):
        # The same kind is only refused for what is in it, and then it is shown.
        assert shown or "empty" in message or "must be inside" in message, message
    if wanted and wanted[1] == "a whole number":
        assert not (isinstance(value, float) and value.is_integer()), message


def parts(value: object) -> list[object]:
    """What a list or an object holds: its parts may be what is wrong."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


@pytest.mark.parametrize("value", [None, True, False, 0, 7, -1, 0.5, [], {}, [1, None, True], {"a": 1}])
def test_what_is_short_is_shown_as_json_has_it(value: object) -> None:
    assert quote_for_message(value) == json.dumps(value).replace('"', "'")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("it's", '"it\'s"'),
        ("x" * 41, f"'{'x' * 40}'…"),
        ([1, 2, 3, 4], "[1, 2, 3, …]"),
        ([[1], {"a": 1}, [], {}], "[[…], {…}, [], …]"),
        ({"a": [1], "b": {}, "c": "text", "d": 1}, "{'a': […], 'b': {}, 'c': 'text', …}"),
        (10**99, f"1{'0' * 39}…"),
    ],
)
def test_what_is_long_is_cut(value: object, shown: str) -> None:
    assert quote_for_message(value) == shown
