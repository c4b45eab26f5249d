"""Two of Hugging Face's tasks: image classification, and feature extraction for requests with the option `embedding`.

The first takes one image and returns a list of labels and scores. The second takes one image or a list of them, and
returns a list with a list of numbers for each.

https://huggingface.co/docs/inference-providers/tasks/image-classification
https://huggingface.co/docs/inference-providers/tasks/feature-extraction
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from handler import embedding, json_images
from handler.errors import ErrorCode, RequestError
from handler.messages import join_words, quote_for_message
from handler.options import Encoding, Norm, Options, read_document_parameters, read_parameters, read_word
from handler.payload import Document, Uploads
from handler.ranking import Prediction
from handler.reply import Reply, document
from handler.request import Content, Request, Upload, check_count, require_results
from handler.results import ImageResult
from handler.settings import Settings

FORMAT = "huggingface"

_OPTIONS = ("top_k", "function_to_apply", "embedding", "embedding_norm", "format")
_NORMALIZE = "normalize"  # feature extraction's own option, which its clients send beside the inputs
# All functions are monotonic, so they rank classes alike; only the scores differ.
_SCORES: dict[str, Callable[[Prediction], float]] = {
    "softmax": lambda row: row.probability,
    "sigmoid": lambda row: (1 + math.tanh(row.logit / 2)) / 2,  # unlike 1 / (1 + exp(-x)), this never overflows
    "none": lambda row: row.logit,
}


@dataclass(frozen=True, kw_only=True)
class HuggingFaceRequest(Request):
    """One image, or several to embed, and the function that converts logits to scores."""

    function: str

    def answer(self, outcomes: Sequence[ImageResult | RequestError], model: Mapping[str, object]) -> Reply:
        """Return labels and scores, best first, or the embedding of each image.

        Raises:
            RequestError: the first image's error.
        """
        if len(outcomes) == 1 and isinstance(outcomes[0], RequestError):
            raise outcomes[0]
        results = require_results(outcomes)
        if self.embeds:
            return document([embedding.shorten(result.embedding) for result in results])
        score = _SCORES[self.function]
        return document([{"label": row.label, "score": score(row)} for row in results[0].predictions])


def read(payload: Uploads | Document, settings: Settings) -> HuggingFaceRequest:
    """Read an image as bytes, or JSON {"inputs": "<base64>", "parameters": {…}}; to embed, also a list of base64.

    Raises:
        RequestError: too_many_images, bad_json, bad_base64, no_image, bad_option.
    """
    if isinstance(payload, Uploads):
        options = read_parameters(None, payload.options, _OPTIONS)
        _check_encoding(options)
        uploads = [Upload(_only_image(payload))]
    else:
        assert isinstance(payload.content, Mapping)  # ensured by detect_protocol()
        options = read_document_parameters(payload.content, payload.options, _OPTIONS)
        if _check_encoding(options) is Encoding.NONE:
            uploads = [Upload(_read_input(payload.content["inputs"]))]
        else:
            uploads = _read_inputs(payload.content["inputs"], settings)
            options["embedding_norm"] = _read_norm(payload.content.get(_NORMALIZE), options.get("embedding_norm"))
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
    return HuggingFaceRequest(uploads, Options.read(options, settings), function=function)


def _check_encoding(options: Mapping[str, object]) -> Encoding:
    """Return the encoding of embeddings; clients of feature extraction read numbers only."""
    allowed = (Encoding.NONE, Encoding.FLOAT)
    return read_word("embedding", options.get("embedding"), Encoding.NONE, allowed, " in this shape")


def _read_norm(normalize: object, otherwise: object) -> object:
    if not isinstance(normalize, bool | None):
        raise RequestError(
            ErrorCode.BAD_OPTION, f"{_NORMALIZE} must be true or false, not {quote_for_message(normalize)}"
        )
    return otherwise if normalize is None else Norm.L2 if normalize else Norm.RAW


def _only_image(payload: Uploads) -> Content:
    if len(payload.parts) != 1:
        raise RequestError(
            ErrorCode.TOO_MANY_IMAGES,
            f"the request has {len(payload.parts)} images; send one per request for format={FORMAT}",
        )
    (content,) = payload.parts.values()
    return content


def _read_inputs(inputs: object, settings: Settings) -> list[Upload]:
    if not isinstance(inputs, list):
        return [Upload(_read_input(inputs))]
    check_count(len(inputs), settings)
    return [Upload.read(_read_input, text) for text in inputs]


def _read_input(text: object) -> Content:
    if not isinstance(text, str):
        raise RequestError(
            ErrorCode.BAD_JSON,
            '"inputs" must be an image in base64, a list of them with the option embedding, or a list of tensors (Open '
            f"Inference Protocol), not {quote_for_message(text)}",
        )
    return json_images.from_base64(text)
