"""Hugging Face's image classification task: one image in, a list of labels and scores out.

https://huggingface.co/docs/inference-providers/tasks/image-classification
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from handler import encoding
from handler.failures import Code, Failure
from handler.labels import Prediction
from handler.payload import Document, Images
from handler.protocols import kserve_v1
from handler.reply import Reply, document
from handler.request import (
    Content,
    Outcome,
    Upload,
    listed,
    quoted,
    read_count,
    read_document_parameters,
    read_parameters,
)
from handler.settings import Settings

FORMAT = "huggingface"
refuse = kserve_v1.refuse  # a string under "error", here too

_OPTIONS = ("top_k", "function_to_apply", "format")
# All are monotonic: the best classes are the same, only their scores differ.
_SCORES: dict[str, Callable[[Prediction], float]] = {
    "softmax": lambda row: row.probability,
    "sigmoid": lambda row: (1 + math.tanh(row.logit / 2)) / 2,  # this form of it never overflows
    "none": lambda row: row.logit,
}


@dataclass(frozen=True)
class Request:
    """One image, and the function that makes scores of logits."""

    uploads: Sequence[Upload]
    top_k: int
    function: str
    min_probability: float  # an answer of this protocol has no place for it; our own count does
    why: ClassVar[None] = None
    shown: ClassVar[None] = None

    def answer(self, outcomes: Sequence[Outcome], model: Mapping[str, str]) -> Reply:
        """Labels and scores, best first. Raises the image's Failure."""
        (outcome,) = outcomes
        if isinstance(outcome, Failure):
            raise outcome
        score = _SCORES[self.function]
        return document([{"label": row.label, "score": score(row)} for row in outcome.predictions])


def read(payload: Images | Document, settings: Settings) -> Request:
    """An image as bytes, or JSON {"inputs": "<base64>", "parameters": {…}}. Raises Failure."""
    if isinstance(payload, Images):
        content, options = _only_image(payload), read_parameters(None, payload.options, _OPTIONS)
    else:
        assert isinstance(payload.content, Mapping)  # else it would not have been recognized
        content = _read_inputs(payload.content["inputs"])
        options = read_document_parameters(payload.content, payload.options, _OPTIONS)
    if options.get("format", FORMAT) != FORMAT:
        raise Failure(Code.BAD_OPTION, f"format must be {FORMAT}, not {quoted(options['format'])}, or be left out")
    function = options.get("function_to_apply")
    function = "softmax" if function is None else function
    if not isinstance(function, str) or function not in _SCORES:
        raise Failure(Code.BAD_OPTION, f"function_to_apply must be one of {listed(_SCORES)}, not {quoted(function)}")
    top_k = options.get("top_k")
    return Request(
        uploads=[Upload(content)],
        top_k=settings.top_k if top_k is None else read_count("top_k", top_k),
        function=function,
        min_probability=settings.min_probability,
    )


def _only_image(payload: Images) -> Content:
    if len(payload.parts) != 1:
        raise Failure(Code.TOO_MANY_IMAGES, "this format holds the answer to one image; send one at a time")
    (content,) = payload.parts.values()
    return content


def _read_inputs(inputs: object) -> Content:
    if not isinstance(inputs, str):
        raise Failure(
            Code.BAD_JSON, '"inputs" must be an image in base64, or a list of tensors (Open Inference Protocol)'
        )
    return encoding.from_base64(inputs)
