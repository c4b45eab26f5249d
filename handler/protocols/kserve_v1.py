"""KServe's v1 protocol, which is TensorFlow Serving's: `instances` in, as many `predictions` out.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handler import encoding
from handler.failures import Code, Failure
from handler.labels import ClassIndex
from handler.payload import EXPLAINING, Document
from handler.protocols import native
from handler.reply import Reply, document
from handler.request import (
    Content,
    Options,
    Outcome,
    Upload,
    Why,
    check_count,
    check_pictures,
    read_document_parameters,
)
from handler.settings import Settings

_NAMES = ("image", "image_bytes", "data")


@dataclass(frozen=True)
class Request:
    """A list of instances."""

    uploads: Sequence[Upload]
    options: Options
    why: Why | None = None

    @property
    def top_k(self) -> int:
        """How many classes the answer lists."""
        return self.options.top_k

    @property
    def min_probability(self) -> float:
        """From where on an image counts as recognized."""
        return self.options.min_probability

    @property
    def shown(self) -> int | None:
        """An explanation's whole picture."""
        return self.why.shown if self.why else None

    def answer(self, outcomes: Sequence[Outcome], model: Mapping[str, str]) -> Reply:
        """One prediction an instance, a failed one being an error in its place; and as many explanations."""
        answer = {"predictions": [native.result(outcome, self.options, model) for outcome in outcomes]}
        if self.why:
            answer["explanations"] = [native.explained(outcome) for outcome in outcomes]
        return document(answer)


def read(payload: Document, settings: Settings) -> Request:
    """Raises Failure: bad_json, bad_option, too_many_images, no_image."""
    content, instances = _instances(payload, settings)
    options = read_document_parameters(content, payload.options, native.OPTIONS)
    return Request([Upload(_read_instance(instance)) for instance in instances], Options.read(options, settings))


def explain(payload: Document, settings: Settings, classes: ClassIndex) -> Request:
    """The same with explanations. Raises answer_too_large for too many pictures, too."""
    content, instances = _instances(payload, settings)
    options = read_document_parameters(content, payload.options, EXPLAINING)
    why = Why.read(options, classes)
    uploads = [Upload(_read_instance(instance)) for instance in instances]
    check_pictures(uploads, why)
    return Request(uploads, Options.read(options, settings), why)


def _instances(payload: Document, settings: Settings) -> tuple[Mapping[str, object], list[object]]:
    content = payload.content
    assert isinstance(content, Mapping)  # else it would not have been recognized
    instances = content["instances"]
    if not isinstance(instances, list) or not instances:
        raise Failure(Code.BAD_JSON, '"instances" must be a list with one entry an image: [{"b64": "<base64>"}, …]')
    check_count(len(instances), settings)
    return content, instances


def refuse(failure: Failure) -> Reply:
    """The protocol's error is a string; our code stands beside it."""
    return document({"error": failure.message, "code": failure.code.value}, failure.code.status)


def _read_instance(instance: object) -> Content | Failure:
    try:
        return _read_value(_unwrap(instance))
    except Failure as failure:
        return failure


def _unwrap(instance: object) -> object:
    """{"b64": x}, {"image": x}, {"image": {"b64": x}} and x itself → x."""
    for names in (_NAMES, ("b64",)):
        if isinstance(instance, Mapping) and len(instance) == 1 and next(iter(instance)) in names:
            (instance,) = instance.values()
    return instance


def _read_value(value: object) -> Content:
    if isinstance(value, str):
        return encoding.from_base64(value)
    if isinstance(value, list):
        return encoding.to_tensor(value)
    raise Failure(
        Code.BAD_JSON,
        'an instance must be {"b64": "<base64 of an image>"}, the same under "image", "image_bytes" or "data", the '
        "base64 text alone, or a preprocessed image as 3 × 224 × 224 nested numbers",
    )
