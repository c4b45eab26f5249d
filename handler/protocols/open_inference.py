"""The Open Inference Protocol, also known as KServe v2: takes and returns named tensors.

https://github.com/kserve/open-inference-protocol, with Triton's extensions for classification and binary tensor data.
The network has one input, of any name: BYTES [N], encoded images, or FP32 [N, 3, 224, 224], preprocessed images.

KServe's samples for TorchServe (kubernetes/kserve/kf_request_json/v2 in pytorch/serve) have shapes of one dimension as
a number, and -1 as the number of images, and a single image without a list, or as a list of its characters.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from handler import embedding, json_images
from handler.errors import ErrorCode, RequestError
from handler.messages import quote_for_message
from handler.options import Options, read_count, read_document_parameters, read_parameters, read_switch, whole_number
from handler.payload import Document
from handler.ranking import Prediction
from handler.reply import Reply, encode
from handler.request import Content, Request, Upload, check_count, require_results
from handler.results import ImageResult
from handler.settings import Settings

# Datatype and shape of one image. Clients of Triton send BYTES as [N, 1], with a batch dimension.
_INPUTS: tuple[tuple[str, list[int]], ...] = (("BYTES", []), ("BYTES", [1]), ("FP32", [*json_images.IMAGE_SHAPE]))
_PARAMETERS = ("top_k", "min_probability", "embedding_norm", "classification", "binary_data_output")
_OUTPUT_PARAMETERS = ("classification", "binary_data")
_CLASSIFIED = "probabilities"
# Outputs with one value per class: datatype, and the function that returns the value.
_CLASS_OUTPUTS: dict[str, tuple[str, Callable[[Prediction], object]]] = {
    _CLASSIFIED: ("FP32", lambda row: row.probability),
    "class_ids": ("BYTES", lambda row: row.class_id),
    "labels": ("BYTES", lambda row: row.label),
    "indices": ("INT64", lambda row: row.index),
}
_DEFAULT_OUTPUTS = (*_CLASS_OUTPUTS, "recognized")
_EMBEDDING = "embedding"
_UNKNOWN = "unknown_score"
_OUTPUTS = (*_DEFAULT_OUTPUTS, _EMBEDDING, _UNKNOWN)
METADATA = "application/vnd.open-inference+json"
"""Accept of a request for metadata(), which the gateway sends when it is asked at the protocol's own addresses."""
_BINARY_DATA = "application/octet-stream"
_FORMATS = {"FP32": "f", "INT64": "q", "BOOL": "?"}  # format characters of the struct module


@dataclass(frozen=True)
class Output:
    """One requested output: its name, the number of classes per image, and its encoding."""

    name: str
    count: int
    classification: bool
    binary: bool


@dataclass(frozen=True, kw_only=True)
class OpenInferenceRequest(Request):
    """One tensor of images, and the requested outputs."""

    id: str | None
    outputs: Sequence[Output]

    @property
    def top_k(self) -> int:
        """Return the number of classes that the largest output needs."""
        return max(output.count for output in self.outputs)

    @property
    def embeds(self) -> bool:
        """Return whether the embedding is one of the outputs."""
        return any(output.name == _EMBEDDING for output in self.outputs)

    def answer(self, outcomes: Sequence[ImageResult | RequestError], model: Mapping[str, object]) -> Reply:
        """Return the requested outputs.

        Raises:
            RequestError: the first image's error, because a tensor cannot contain errors.
        """
        results = require_results(outcomes)
        document: dict[str, object] = {"model_name": model["name"], "model_version": model["version"]}
        if self.id is not None:
            document["id"] = self.id
        tensors = [_tensor(output, results, self.options) for output in self.outputs]
        blobs = [_to_binary(tensor) for tensor, output in zip(tensors, self.outputs, strict=True) if output.binary]
        text = encode(document | {"outputs": tensors})
        if not blobs:
            return Reply(text)
        headers = {"Inference-Header-Content-Length": str(len(text))}
        return Reply(b"".join([text, *blobs]), content_type=_BINARY_DATA, headers=headers)


def metadata(model: Mapping[str, str]) -> Reply:
    """Return the protocol's metadata of the model, and that it is ready, since a worker answered.

    model: its name and version, as answers contain them.
    """
    outputs = [{"name": name, "datatype": kind, "shape": [-1, -1]} for name, (kind, _) in _CLASS_OUTPUTS.items()]
    document = {
        "name": model["name"],
        "versions": [model["version"]],
        "platform": "pytorch_torchscript",
        "inputs": [{"name": "images", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            *outputs,
            {"name": "recognized", "datatype": "BOOL", "shape": [-1]},
            {"name": _EMBEDDING, "datatype": "FP32", "shape": [-1, embedding.WIDTH]},
        ],
        "ready": True,
    }
    return Reply(encode(document))


def read(payload: Document, settings: Settings) -> OpenInferenceRequest:
    """Read an inference request.

    Raises:
        RequestError: bad_json, bad_option, bad_tensor, no_image, too_many_images.
    """
    content = payload.content
    assert isinstance(content, Mapping)  # ensured by detect_protocol()
    request_id = content.get("id")
    if not isinstance(request_id, str | None):
        raise RequestError(ErrorCode.BAD_JSON, f'"id" must be text, not {quote_for_message(request_id)}')
    parameters = read_document_parameters(content, payload.options, _PARAMETERS)
    options = Options.read(parameters, settings)
    outputs = _read_outputs(content.get("outputs"), parameters, options.top_k)
    uploads = _read_inputs(content["inputs"], payload.appended, settings)
    return OpenInferenceRequest(uploads, options, id=request_id, outputs=outputs)


def _read_inputs(inputs: Sequence[object], appended: bytes, settings: Settings) -> list[Upload]:
    tensor = inputs[0] if len(inputs) == 1 else None
    if not isinstance(tensor, Mapping) or not {"shape", "datatype"} <= tensor.keys():
        raise RequestError(
            ErrorCode.BAD_TENSOR if isinstance(tensor, Mapping) else ErrorCode.BAD_JSON,
            '"inputs" must contain one tensor, {"name", "shape", "datatype", "data"}, not '
            f"{quote_for_message(inputs[0]) if len(inputs) == 1 else len(inputs)}",
        )
    shape = _read_shape(tensor["shape"])
    datatype = tensor["datatype"]
    if not shape or (datatype, shape[1:]) not in _INPUTS:
        raise RequestError(
            ErrorCode.BAD_TENSOR,
            f"the input is {quote_for_message(datatype)} {shape}; it must be BYTES [N] (encoded images) or "
            "FP32 [N, 3, 224, 224] (preprocessed images)",
        )
    if shape[0] == 0:
        raise RequestError(ErrorCode.NO_IMAGE, "the input contains no image: its first dimension is 0")
    check_count(shape[0], settings)
    data = _read_data(tensor, appended)
    if datatype == "BYTES":
        elements = _elements(data, shape[0])
        check_count(len(elements), settings)
        return [Upload.read(_read_element, element) for element in elements]
    if shape[0] == -1:
        raise RequestError(ErrorCode.BAD_TENSOR, f"the shape is {shape}; write the number of images in place of -1")
    return [Upload(content) for content in _floats(data, shape).unbind()]


def _read_shape(shape: object) -> list[int]:
    """Read up to four dimensions of up to nine digits; the limit keeps later error messages short.

    The first one is -1 if the data has the number of images.
    """
    values = shape if isinstance(shape, list) else [shape]
    sides = [side for value in values[:4] if (side := whole_number(value)) is not None]
    if len(sides) != len(values) or not all(0 <= side < 1e9 or (i == 0 and side == -1) for i, side in enumerate(sides)):
        raise RequestError(
            ErrorCode.BAD_TENSOR,
            f'"shape" must be a list of one to four whole numbers, such as [1], not {quote_for_message(shape)}',
        )
    return sides


def _read_data(tensor: Mapping[Any, Any], appended: bytes) -> list[Any] | bytes:
    """Return the tensor's elements from the JSON, or the binary data after it."""
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, Mapping) else None
    if size is None:
        data = tensor.get("data")
        if appended:
            raise RequestError(
                ErrorCode.BAD_TENSOR, "binary data follows the JSON, but the input has no binary_data_size"
            )
        if isinstance(data, str) and tensor.get("datatype") == "BYTES":
            return [data]
        if not isinstance(data, list):
            raise RequestError(
                ErrorCode.BAD_JSON, f'"data" must be a list of the input\'s elements, not {quote_for_message(data)}'
            )
        return data
    if whole_number(size) != len(appended):
        raise RequestError(
            ErrorCode.BAD_TENSOR,
            f"binary_data_size is {quote_for_message(size)}, but {len(appended)} bytes follow the JSON; the header "
            "Inference-Header-Content-Length must be the length of the JSON",
        )
    return appended


def _elements(data: list[Any] | bytes, count: int) -> list[Any]:
    elements = _split(data) if isinstance(data, bytes) else _flat(data)
    if count == -1:
        is_spelt = len(elements) > 1 and all(isinstance(element, str) and len(element) == 1 for element in elements)
        return ["".join(map(str, elements))] if is_spelt else elements
    if len(elements) != count:
        raise RequestError(ErrorCode.BAD_TENSOR, f"the shape is for {count} images, but the data has {len(elements)}")
    return elements


def _flat(data: list[Any]) -> list[Any]:
    """Return the elements of [a, b] or [[a], [b]]: data may be nested like the shape."""
    return [element[0] if isinstance(element, list) and len(element) == 1 else element for element in data]


def _split(data: bytes) -> list[bytes]:
    """Split binary BYTES: each element follows its length in 4 bytes, little-endian."""
    elements, at = [], 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        elements.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data):
        raise RequestError(ErrorCode.BAD_TENSOR, "the binary data ends within an element")
    return elements


def _read_element(element: object) -> Content:
    if isinstance(element, str):
        return json_images.from_base64(element)
    if not isinstance(element, bytes):
        raise RequestError(
            ErrorCode.BAD_JSON,
            f"an element of BYTES must be the base64 text of an image, not {quote_for_message(element)}",
        )
    # Binary elements may be image files or base64 text. Image files are never pure ASCII.
    return json_images.from_base64(element.decode("ascii")) if element.isascii() else element


def _floats(data: list[Any] | bytes, shape: list[int]) -> torch.Tensor:
    if isinstance(data, list):
        return json_images.to_tensor(data, shape)
    if len(data) != 4 * math.prod(shape):
        raise RequestError(
            ErrorCode.BAD_TENSOR,
            f"the binary data has {len(data)} bytes, but an FP32 tensor of shape {shape} has {4 * math.prod(shape)}",
        )
    return json_images.check_finite(torch.frombuffer(bytearray(data), dtype=torch.float32).view(*shape))


def _read_outputs(requested: object, parameters: Mapping[str, object], top_k: int) -> list[Output]:
    binary = read_switch("binary_data_output", parameters.get("binary_data_output"))
    classes = parameters.get("classification")
    if requested is None or requested == []:
        names = [_CLASSIFIED] if classes is not None else list(_DEFAULT_OUTPUTS)
        requested = [{"name": name} for name in names]
    if not isinstance(requested, list) or len(requested) > len(_OUTPUTS):
        raise RequestError(
            ErrorCode.BAD_JSON,
            f'"outputs" must be a list of at most {len(_OUTPUTS)} objects {{"name": …}}, not '
            f"{len(requested) if isinstance(requested, list) else quote_for_message(requested)}",
        )
    return [_read_output(output, classes, top_k, binary=binary) for output in requested]


def _read_output(output: object, classes: object, top_k: int, *, binary: bool) -> Output:
    if not isinstance(output, Mapping) or "name" not in output:
        raise RequestError(
            ErrorCode.BAD_OPTION, f'an output must be an object {{"name": …}}, not {quote_for_message(output)}'
        )
    name = output.get("name")
    if name not in _OUTPUTS:
        raise RequestError(
            ErrorCode.BAD_OPTION, f"unknown output {quote_for_message(name)}; valid outputs: {', '.join(_OUTPUTS)}"
        )
    parameters = read_parameters(output.get("parameters"), {}, _OUTPUT_PARAMETERS)
    own_classes = parameters.get("classification")
    if own_classes is not None and name != _CLASSIFIED:
        raise RequestError(ErrorCode.BAD_OPTION, f"only the output {_CLASSIFIED} supports classification, not {name}")
    classes = (own_classes if own_classes is not None else classes) if name == _CLASSIFIED else None
    count = top_k if classes is None else read_count("classification", classes)
    binary = read_switch("binary_data", parameters.get("binary_data"), default=binary)
    return Output(name, count, classes is not None, binary)


def _tensor(output: Output, results: Sequence[ImageResult], options: Options) -> dict[str, Any]:
    if output.name == "recognized":
        recognized = [result.recognized(options.min_probability) for result in results]
        return {"name": output.name, "datatype": "BOOL", "shape": [len(results)], "data": recognized}
    if output.name == _UNKNOWN:
        unknown = [result.unknown_score for result in results]
        if None in unknown:
            raise RequestError(ErrorCode.BAD_OPTION, f"this model is not calibrated, so it has no output {_UNKNOWN}")
        return {"name": output.name, "datatype": "FP32", "shape": [len(results)], "data": unknown}
    if output.name == _EMBEDDING:
        numbers = [number for result in results for number in result.embedding]
        numbers = numbers if output.binary else embedding.shorten(numbers)
        return {"name": output.name, "datatype": "FP32", "shape": [len(results), embedding.WIDTH], "data": numbers}
    datatype, value = _CLASS_OUTPUTS[output.name]
    if output.classification:
        datatype, value = "BYTES", lambda row: f"{row.probability}:{row.index}:{row.label}"
    data = [value(row) for result in results for row in result.predictions[: output.count]]
    shape = [len(results), len(data) // len(results)]
    return {"name": output.name, "datatype": datatype, "shape": shape, "data": data}


def _to_binary(tensor: dict[str, Any]) -> bytes:
    """Replace the data of a response tensor by its binary size, and return its bytes."""
    data = tensor.pop("data")
    if tensor["datatype"] == "BYTES":
        elements = [str(value).encode() for value in data]
        blob = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    else:
        blob = struct.pack(f"<{len(data)}{_FORMATS[tensor['datatype']]}", *data)
    tensor["parameters"] = {"binary_data_size": len(blob)}
    return blob
