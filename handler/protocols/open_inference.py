"""The Open Inference Protocol, also known as KServe v2: named tensors in, named tensors out.

https://github.com/kserve/open-inference-protocol, with Triton's extensions for classification and binary tensor data.
The network has one input, under any name: BYTES [N], encoded images, or FP32 [N, 3, 224, 224], preprocessed ones.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from handler import encoding
from handler.failures import Code, Failure
from handler.labels import Prediction
from handler.payload import Document
from handler.protocols import kserve_v1
from handler.reply import Reply, encode
from handler.request import (
    Content,
    Options,
    Outcome,
    Seen,
    Upload,
    check_count,
    listed,
    quoted,
    read_count,
    read_document_parameters,
    read_parameters,
)
from handler.settings import Settings

refuse = kserve_v1.refuse  # a string under "error", here too

# Datatype, and the dimensions of one image. BYTES [N, 1] is [N] with Triton's batch dimension.
_INPUTS: tuple[tuple[str, list[int]], ...] = (("BYTES", []), ("BYTES", [1]), ("FP32", [*encoding.IMAGE_SHAPE]))
_PARAMETERS = ("top_k", "min_probability", "classification", "binary_data_output")
_OUTPUT_PARAMETERS = ("classification", "binary_data")
_CLASSIFIED = "probabilities"
# Each output of the best classes: its datatype, and its value for one class.
_CLASS_OUTPUTS: dict[str, tuple[str, Callable[[Prediction], object]]] = {
    _CLASSIFIED: ("FP32", lambda row: row.probability),
    "class_ids": ("BYTES", lambda row: row.class_id),
    "labels": ("BYTES", lambda row: row.label),
    "indices": ("INT64", lambda row: row.index),
}
_OUTPUTS = (*_CLASS_OUTPUTS, "recognized")
_BINARY_DATA = "application/octet-stream"
_FORMATS = {"FP32": "f", "INT64": "q", "BOOL": "?"}  # of the struct module, little-endian


@dataclass(frozen=True)
class Output:
    """One tensor of the answer: its name, how many classes of each image, and how it is written."""

    name: str
    count: int
    classification: bool
    binary: bool


@dataclass(frozen=True)
class Request:
    """One tensor of images, and the tensors that the answer is to hold."""

    uploads: Sequence[Upload]
    options: Options
    id: str | None
    outputs: Sequence[Output]
    why: ClassVar[None] = None
    shown: ClassVar[None] = None

    @property
    def top_k(self) -> int:
        """How many classes the largest of the outputs needs."""
        return max(output.count for output in self.outputs)

    @property
    def min_probability(self) -> float:
        """From where on an image counts as recognized."""
        return self.options.min_probability

    def answer(self, outcomes: Sequence[Outcome], model: Mapping[str, str]) -> Reply:
        """All outputs. Raises the first image's Failure: a tensor has no place for an error."""
        seen = []
        for i, outcome in enumerate(outcomes, start=1):
            if isinstance(outcome, Failure):
                raise Failure(outcome.code, f"image {i} of {len(outcomes)}: {outcome.message}")
            seen.append(outcome)
        head: dict[str, object] = {"model_name": model["name"], "model_version": model["version"]}
        if self.id is not None:
            head["id"] = self.id
        tensors = [_tensor(output, seen, self.options) for output in self.outputs]
        blobs = [_to_binary(tensor) for tensor, output in zip(tensors, self.outputs, strict=True) if output.binary]
        text = encode(head | {"outputs": tensors})
        if not blobs:
            return Reply(text)
        headers = {"Inference-Header-Content-Length": str(len(text))}
        return Reply(b"".join([text, *blobs]), content_type=_BINARY_DATA, headers=headers)


def read(payload: Document, settings: Settings) -> Request:
    """An inference request. Raises Failure."""
    content = payload.content
    assert isinstance(content, Mapping)  # else it would not have been recognized
    request_id = content.get("id")
    if not isinstance(request_id, str | None):
        raise Failure(Code.BAD_JSON, f'"id" must be text, not {quoted(request_id)}')
    parameters = read_document_parameters(content, payload.options, _PARAMETERS)
    options = Options.read(parameters, settings)
    outputs = _read_outputs(content.get("outputs"), parameters, options.top_k)
    return Request(_read_inputs(content["inputs"], payload.appended, settings), options, request_id, outputs)


def _read_inputs(inputs: Sequence[object], appended: bytes, settings: Settings) -> list[Upload]:
    if len(inputs) != 1 or not isinstance(inputs[0], Mapping):
        raise Failure(Code.BAD_JSON, '"inputs" must hold one tensor: {"name", "shape", "datatype", "data"}')
    tensor = inputs[0]
    shape = _read_shape(tensor.get("shape"))
    datatype = tensor.get("datatype")
    if not any(datatype == taken and shape[1:] == one_image for taken, one_image in _INPUTS) or not shape:
        raise Failure(
            Code.BAD_TENSOR,
            f"the input is {quoted(datatype)} {shape}; it must be BYTES [N], encoded images, or FP32 [N, 3, 224, 224], "
            "preprocessed ones",
        )
    if shape[0] == 0:
        raise Failure(Code.NO_IMAGE, "the input holds no image; its first dimension is 0")
    check_count(shape[0], settings)
    data = _read_data(tensor, appended)
    if datatype == "BYTES":
        return [Upload(content) for content in _images(data, shape[0])]
    return [Upload(content) for content in _floats(data, shape).unbind()]


def _read_shape(shape: object) -> list[int]:
    """At most four dimensions, none of more than nine digits: what is refused later is repeated in the message."""
    if (
        not isinstance(shape, list)
        or len(shape) > 4
        or not all(type(side) is int and 0 <= side < 1e9 for side in shape)
    ):
        raise Failure(Code.BAD_TENSOR, f'"shape" must be a list of one to four whole numbers, not {quoted(shape)}')
    return shape


def _read_data(tensor: Mapping[Any, Any], appended: bytes) -> list[Any] | bytes:
    """The tensor's elements from the JSON, or the bytes that followed it."""
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, Mapping) else None
    if size is None:
        data = tensor.get("data")
        if appended:
            raise Failure(Code.BAD_TENSOR, "bytes follow the JSON, but the input has no binary_data_size")
        if not isinstance(data, list):
            raise Failure(Code.BAD_JSON, 'the input needs "data", a list of its elements')
        return data
    if type(size) is not int or size != len(appended):
        raise Failure(
            Code.BAD_TENSOR,
            f"binary_data_size is {quoted(size)}, but {len(appended)} bytes follow the JSON (the header "
            "Inference-Header-Content-Length says where it ends)",
        )
    return appended


def _images(data: list[Any] | bytes, count: int) -> list[Content | Failure]:
    elements = _split(data) if isinstance(data, bytes) else _flat(data)
    if len(elements) != count:
        raise Failure(Code.BAD_TENSOR, f"the shape says {count} images, but there are {len(elements)} in the data")
    return [_read_element(element) for element in elements]


def _flat(data: list[Any]) -> list[Any]:
    """Elements of [a, b] or [[a], [b]]: a tensor's data may be nested as its shape is."""
    return [element[0] if isinstance(element, list) and len(element) == 1 else element for element in data]


def _split(data: bytes) -> list[bytes]:
    """Binary BYTES: before each element its length, 4 bytes little-endian."""
    elements, at = [], 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        elements.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data):
        raise Failure(Code.BAD_TENSOR, "the binary data breaks off within an element")
    return elements


def _read_element(element: object) -> Content | Failure:
    try:
        if isinstance(element, str):
            return encoding.from_base64(element)
        if not isinstance(element, bytes):
            raise Failure(Code.BAD_JSON, "an element of BYTES must be the base64 text of an image")
        # As binary data both are in use: the image itself, and base64 text, which no image file could be.
        return encoding.from_base64(element.decode("ascii")) if element.isascii() else element
    except Failure as failure:
        return failure


def _floats(data: list[Any] | bytes, shape: list[int]) -> torch.Tensor:
    if isinstance(data, list):
        return encoding.to_tensor(data, shape)
    if len(data) != 4 * math.prod(shape):
        raise Failure(Code.BAD_TENSOR, f"{len(data)} bytes of binary data are no FP32 tensor of shape {shape}")
    return encoding.check_finite(torch.frombuffer(bytearray(data), dtype=torch.float32).view(*shape))


def _read_outputs(asked: object, parameters: Mapping[str, object], top_k: int) -> list[Output]:
    binary = _read_switch("binary_data_output", parameters.get("binary_data_output"), default=False)
    classes = parameters.get("classification")
    if asked is None or asked == []:
        names = [_CLASSIFIED] if classes is not None else list(_OUTPUTS)
        asked = [{"name": name} for name in names]
    if not isinstance(asked, list) or len(asked) > len(_OUTPUTS):
        raise Failure(Code.BAD_JSON, f'"outputs" must be a list of at most {len(_OUTPUTS)} objects {{"name": …}}')
    return [_read_output(output, classes, top_k, binary=binary) for output in asked]


def _read_output(output: object, classes: object, top_k: int, *, binary: bool) -> Output:
    name = output.get("name") if isinstance(output, Mapping) else None
    if not isinstance(output, Mapping) or name not in _OUTPUTS:
        raise Failure(Code.BAD_OPTION, f"there is no output {quoted(name)}; there are {listed(_OUTPUTS)}")
    parameters = read_parameters(output.get("parameters"), {}, _OUTPUT_PARAMETERS)
    own = parameters.get("classification")
    if own is not None and name != _CLASSIFIED:
        raise Failure(Code.BAD_OPTION, f"classification can be had of the output {_CLASSIFIED} only")
    classes = (own if own is not None else classes) if name == _CLASSIFIED else None
    count = top_k if classes is None else read_count("classification", classes)
    binary = _read_switch("binary_data", parameters.get("binary_data"), default=binary)
    return Output(name, count, classes is not None, binary)


def _read_switch(name: str, value: object, *, default: bool) -> bool:
    if not isinstance(value, bool | None):
        raise Failure(Code.BAD_OPTION, f"{name} must be true or false, not {quoted(value)}")
    return default if value is None else value


def _tensor(output: Output, seen: Sequence[Seen], options: Options) -> dict[str, Any]:
    if output.name == "recognized":
        known = [one.recognized(options.min_probability) for one in seen]
        return {"name": output.name, "datatype": "BOOL", "shape": [len(seen)], "data": known}
    datatype, value = _CLASS_OUTPUTS[output.name]
    if output.classification:
        datatype, value = "BYTES", lambda row: f"{row.probability}:{row.index}:{row.label}"
    data = [value(row) for one in seen for row in one.predictions[: output.count]]
    shape = [len(seen), len(data) // len(seen)]
    return {"name": output.name, "datatype": datatype, "shape": shape, "data": data}


def _to_binary(tensor: dict[str, Any]) -> bytes:
    """Takes the data out of a tensor of the answer, leaves its size there, and gives its bytes."""
    data = tensor.pop("data")
    if tensor["datatype"] == "BYTES":
        elements = [str(value).encode() for value in data]
        blob = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    else:
        blob = struct.pack(f"<{len(data)}{_FORMATS[tensor['datatype']]}", *data)
    tensor["parameters"] = {"binary_data_size": len(blob)}
    return blob
