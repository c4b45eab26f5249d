"""Hugging Face's image classification task: takes one image, returns a list of labels and scores.

https://huggingface.co/docs/inference-providers/tasks/image-classification
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from handler import json_images
from handler.errors import ErrorCode, RequestError
from handler.messages import join_words, quote_for_message
from handler.options import Options, read_document_parameters, read_parameters
from handler.payload import Document, Uploads
from handler.ranking import Prediction
from handler.reply import Reply, document
from handler.request import Content, Request, Upload
from handler.results import ImageResult
from handler.settings import Settings

FORMAT = "huggingface"

_OPTIONS = ("top_k", "function_to_apply", "format")
# All functions are monotonic, so they rank classes alike; only the scores differ.
_SCORES: dict[str, Callable[[Prediction], float]] = {
    "softmax": lambda row: row.probability,
    "sigmoid": lambda row: (1 + math.tanh(row.logit / 2)) / 2,  # unlike 1 / (1 + exp(-x)), this never overflows
    "none": lambda row: row.logit,
}


@dataclass(frozen=True, kw_only=True)
class HuggingFaceRequest(Request):
    """One image, and the function that converts logits to scores."""

    function: str

    def answer(self, outcomes: Sequence[ImageResult | RequestError], model: Mapping[str, str]) -> Reply:
        """Return labels and scores, best first.

        Raises:
            RequestError: the image's error.
        """
        (outcome,) = outcomes
        if isinstance(outcome, RequestError):
            raise outcome
        score = _SCORES[self.function]
        return document([{"label": row.label, "score": score(row)} for row in outcome.predictions])


def read(payload: Uploads | Document, settings: Settings) -> HuggingFaceRequest:
    """Read an image as bytes, or JSON {"inputs": "<base64>", "parameters": {…}}.

    Raises:
        RequestError: too_many_images, bad_json, bad_base64, no_image, bad_option.
    """
    if isinstance(payload, Uploads):
        content, options = _only_image(payload), read_parameters(None, payload.options, _OPTIONS)
    else:
        assert isinstance(payload.content, Mapping)  # ensured by detect_protocol()
        content = _read_inputs(payload.content["inputs"])
        options = read_document_parameters(payload.content, payload.options, _OPTIONS)
    if options.get("format") not in (None, FORMAT):
        raise RequestError(
            ErrorCode.BAD_OPTION, f"format must be {FORMAT} or absent, not {quote_for_message(options['format'])}"
        )
    function = options.get("function_to_apply")
    function = "softmax" if function is None else function
    if not isinstance(function, str) or function not in _SCORES:
        raise RequestError(
            ErrorCode.BAD_OPTION,
            f"function_to_apply must be one of {join_words(_SCORES)}, not {quote_for_message(function)}",
        )
    # min_probability is only for metrics; requests and responses of this protocol do not contain it.
    return HuggingFaceRequest([Upload(content)], Options.read(options, settings), function=function)


def _only_image(payload: Uploads) -> Content:
    if len(payload.parts) != 1:
        raise RequestError(
            ErrorCode.TOO_MANY_IMAGES,
            f"the request has {len(payload.parts)} images; send one per request for format={FORMAT}",
        )
    (content,) = payload.parts.values()
    return content


def _read_inputs(inputs: object) -> Content:
    if not isinstance(inputs, str):
        raise RequestError(
            ErrorCode.BAD_JSON,
            '"inputs" must be an image in base64, or a list of tensors (Open Inference Protocol), not '
            f"{quote_for_message(inputs)}",
        )
    return json_images.from_base64(inputs)
