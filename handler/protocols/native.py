"""The native protocol, a superset of the Flask and Keras tutorials': one object for one image, or `results`."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace

from handler import embedding
from handler.accept import qualities
from handler.errors import ErrorCode, RequestError
from handler.options import ExplainOptions, Options, read_parameters
from handler.payload import EXPLAINING, PREDICTING, Uploads
from handler.ranking import ClassIndex, Prediction
from handler.repeated_parts import part_name
from handler.reply import Reply, document
from handler.request import Request, Upload, check_count, check_overlays
from handler.results import Explanation, ImageResult
from handler.settings import Settings

OPTIONS = tuple(option for option in PREDICTING if option != "format")  # which chooses another protocol
IMAGES_READ = "X-Images-Read"
"""Response header: the number of images that arrived. TorchServe drops the last part of a form that is cut short."""
PNG = "image/png"


class NativeRequest(Request):
    """One or several uploads."""

    def answer(self, outcomes: Sequence[ImageResult | RequestError], model: Mapping[str, object]) -> Reply:
        """Return one object for one image, or a list of results with the names of their form parts.

        Raises:
            RequestError: the error of a single image.
        """
        return replace(self._reply(outcomes, model), headers={IMAGES_READ: str(len(outcomes))})

    def _reply(self, outcomes: Sequence[ImageResult | RequestError], model: Mapping[str, object]) -> Reply:
        if len(outcomes) == 1:
            if isinstance(outcomes[0], RequestError):
                raise outcomes[0]
            if self.explain_options and self.explain_options.png:
                explanation = outcomes[0].explanations[0]
                return Reply(explanation.overlay or explanation.picture or b"", content_type=PNG)
            return document(self._result(outcomes[0], model))
        pairs = zip(self.uploads, outcomes, strict=True)
        results = [{"name": upload.name} | self._result(outcome, model) for upload, outcome in pairs]
        return document({"success": True, "results": results})

    def _result(self, outcome: ImageResult | RequestError, model: Mapping[str, object]) -> dict[str, object]:
        prediction = result(outcome, self.options, model)
        return prediction | explained(outcome) if self.explain_options else prediction


def read(payload: Uploads, settings: Settings) -> NativeRequest:
    """Read a request in which every part is an image.

    Raises:
        RequestError: too_many_images, bad_option.
    """
    options = Options.read(read_parameters(None, payload.options, OPTIONS), settings)
    return NativeRequest(_uploads(payload, settings), options)


def explain(payload: Uploads, settings: Settings, classes: ClassIndex) -> NativeRequest:
    """Read a request with options for explanations. The answer is a PNG if Accept names PNG and not JSON.

    Raises:
        RequestError: too_many_images, bad_option, answer_too_large.
    """
    png = _wants_png(payload.accept)
    if png and len(payload.parts) > 1:
        raise RequestError(
            ErrorCode.TOO_MANY_IMAGES,
            f"the request has {len(payload.parts)} images; send one per request for a PNG, or accept JSON",
        )
    options = read_parameters(None, payload.options, EXPLAINING)
    explain_options = ExplainOptions.read(options, classes, png=png)
    uploads = _uploads(payload, settings)
    check_overlays(uploads, explain_options)
    return NativeRequest(uploads, Options.read(options, settings), explain_options)


def _wants_png(accept: str) -> bool:
    accepted = {name for name, quality in qualities(accept).items() if quality > 0}
    return PNG in accepted and not any("json" in name for name in accepted)


def _uploads(payload: Uploads, settings: Settings) -> list[Upload]:
    check_count(len(payload.parts), settings)
    empty = RequestError(ErrorCode.NO_IMAGE, "this part is empty; put the image's bytes in it, or remove it")
    return [Upload(content or empty, part_name(key)) for key, content in payload.parts.items()]


def refuse(failure: RequestError) -> Reply:
    """Return the error response of a whole request."""
    return document(error(failure), failure.code.status)


def result(outcome: ImageResult | RequestError, options: Options, model: Mapping[str, object]) -> dict[str, object]:
    """Return one image's prediction or error as JSON."""
    if isinstance(outcome, RequestError):
        return error(outcome)
    best = outcome.predictions[0]
    rows = [_row(prediction, logit=options.logits) for prediction in outcome.predictions]
    return {
        "success": True,
        "class_id": best.class_id,
        "class_name": best.label,
        "predictions": rows,
        "recognized": outcome.recognized(options.min_probability),
        **({} if outcome.unknown_score is None else {"unknown_score": outcome.unknown_score}),
        "model": model,
        **({"embedding": embedding.encode(outcome.embedding, options.embedding)} if outcome.embedding else {}),
    }


def explained(outcome: ImageResult | RequestError) -> dict[str, object]:
    """Return one image's explanations or error as JSON."""
    if isinstance(outcome, RequestError):
        return error(outcome)
    rows = [_explanation(explanation) for explanation in outcome.explanations]
    return {"success": True, "explanations": rows} | ({"crop": outcome.crop} if outcome.crop else {})


def _row(prediction: Prediction, *, logit: bool) -> dict[str, object]:
    row = {"class_id": prediction.class_id, "label": prediction.label, "probability": prediction.probability}
    return {**row, "logit": prediction.logit} if logit else row


def _explanation(explanation: Explanation) -> dict[str, object]:
    images = {"overlay": explanation.overlay, "picture": explanation.picture}
    return {
        **_row(explanation.prediction, logit=True),
        "bias": explanation.bias,
        "map": explanation.map,
        **{name: base64.b64encode(png).decode("ascii") for name, png in images.items() if png},
    }


def error(failure: RequestError) -> dict[str, object]:
    """Return an error, of one image or of a request, as JSON."""
    return {"success": False, "error": {"code": failure.code.value, "message": failure.message}}
