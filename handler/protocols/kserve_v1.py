"""KServe's v1 protocol, the same as TensorFlow Serving's: takes `instances`, returns as many `predictions`.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from collections.abc import Mapping, Sequence

from handler import json_images
from handler.errors import ErrorCode, RequestError
from handler.messages import is_url, quote_for_message
from handler.options import ExplainOptions, Options, read_document_parameters
from handler.payload import EXPLAINING, Document
from handler.protocols import native
from handler.ranking import ClassIndex
from handler.reply import Reply, document
from handler.request import Content, Request, Upload, check_count, check_overlays
from handler.results import ImageResult
from handler.settings import Settings

_NAMES = ("image", "image_bytes", "data")
# Fields beside the image in KServe's samples: the class to explain (TorchServe), the instance's id (TensorFlow).
_BESIDE = ("target", "key")


class KServeV1Request(Request):
    """A list of instances."""

    def answer(self, outcomes: Sequence[ImageResult | RequestError], model: Mapping[str, object]) -> Reply:
        """Return one prediction per instance or its error, and as many explanations if requested."""
        answer = {"predictions": [native.result(outcome, self.options, model) for outcome in outcomes]}
        if self.explain_options:
            answer["explanations"] = [native.explained(outcome) for outcome in outcomes]
        return document(answer)


def read(payload: Document, settings: Settings, classes: ClassIndex | None = None) -> KServeV1Request:
    """Read a list of instances. classes: for a request for explanations, which has options for them.

    Raises:
        RequestError: bad_json, bad_option, too_many_images, answer_too_large.
    """
    content = payload.content
    assert isinstance(content, Mapping)  # ensured by detect_protocol()
    instances = content["instances"]
    if not isinstance(instances, list) or not instances:
        problem = "is empty; it must be" if instances == [] else f"is {quote_for_message(instances)}; it must be"
        raise RequestError(
            ErrorCode.BAD_JSON, f'"instances" {problem} a list with one entry per image: [{{"b64": "<base64>"}}, …]'
        )
    check_count(len(instances), settings)
    valid = native.OPTIONS if classes is None else EXPLAINING
    options = read_document_parameters(content, payload.options, valid)
    explain_options = None
    if classes is not None:
        if options.get("target") is None:
            options["target"] = _target(instances)
        explain_options = ExplainOptions.read(options, classes)
    uploads = [Upload.read(_read_instance, instance) for instance in instances]
    if explain_options:
        check_overlays(uploads, explain_options)
    return KServeV1Request(uploads, Options.read(options, settings), explain_options)


def refuse(error: RequestError) -> Reply:
    """Return the protocol's error response: a string under "error", and our code beside it."""
    return document({"error": error.message, "code": error.code.value}, error.code.status)


def _target(instances: Sequence[object]) -> object:
    """Return the class to explain that every instance names, as in TorchServe's samples, or None.

    Raises:
        RequestError: bad_option, if the instances name different classes, or one names several.
    """
    targets = [instance.get("target") if isinstance(instance, Mapping) else None for instance in instances]
    if any(isinstance(target, list | Mapping) or target != targets[0] for target in targets):
        raise RequestError(
            ErrorCode.BAD_OPTION,
            'all instances must have the same "target", a number or text; or name classes for all of them: '
            '{"parameters": {"target": […]}}',
        )
    return targets[0]


def _unwrap(instance: object) -> object:
    """Return x from {"b64": x}, {"image": x}, {"image": {"b64": x}}, with or without _BESIDE, or x itself."""
    for names in (_NAMES, ("b64",)):
        if isinstance(instance, Mapping):
            images = [name for name in instance if name not in _BESIDE]
            if len(images) == 1 and images[0] in names:
                instance = instance[images[0]]
    return instance


def _read_instance(instance: object) -> Content:
    value = _unwrap(instance)
    if isinstance(value, str):
        return json_images.from_base64(value)
    if isinstance(value, list):
        return json_images.to_tensor(value)
    has_url = isinstance(value, Mapping) and any(map(is_url, value.values()))
    raise RequestError(
        ErrorCode.BAD_JSON,
        'an instance must be {"b64": "<base64 of an image>"}, the same under "image", "image_bytes" or "data", the '
        "base64 text alone, or a preprocessed image as 3 × 224 × 224 nested numbers, not "
        f"{quote_for_message(value)}{'; URLs are not fetched' if has_url else ''}",
    )
