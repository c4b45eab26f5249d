"""Our own answers, a superset of the Flask and Keras tutorials': one object for one image, `results` for several."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handler.accept import qualities
from handler.failures import Code, Failure
from handler.labels import ClassIndex, Prediction
from handler.payload import EXPLAINING, Images
from handler.reply import Reply, document
from handler.request import (
    Explanation,
    Options,
    Outcome,
    Upload,
    Why,
    check_count,
    check_pictures,
    read_parameters,
)
from handler.settings import Settings

OPTIONS = ("top_k", "min_probability")
PNG = "image/png"


@dataclass(frozen=True)
class Request:
    """One or several encoded images."""

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
        """An object, or a list of results with their parts' names. Raises the Failure of an only image."""
        if len(outcomes) == 1:
            if isinstance(outcomes[0], Failure):
                raise outcomes[0]
            if self.why and self.why.png:
                return _png(outcomes[0].explanations[0])
            return document(self._result(outcomes[0], model))
        pairs = zip(self.uploads, outcomes, strict=True)
        results = [{"name": upload.name} | self._result(outcome, model) for upload, outcome in pairs]
        return document({"success": True, "results": results})

    def _result(self, outcome: Outcome, model: Mapping[str, str]) -> dict[str, object]:
        said = result(outcome, self.options, model)
        return said | explained(outcome) if self.why else said


def read(payload: Images, settings: Settings) -> Request:
    """Every part is an image. Raises Failure: too_many_images, bad_option."""
    options = Options.read(read_parameters(None, payload.options, OPTIONS), settings)
    return Request(_uploads(payload, settings), options)


def explain(payload: Images, settings: Settings, classes: ClassIndex) -> Request:
    """The same with explanations; as a PNG where the client names that and no JSON.

    Raises Failure, answer_too_large for too many pictures.
    """
    png = _wants_png(payload.accept)
    if png and len(payload.parts) > 1:
        raise Failure(Code.TOO_MANY_IMAGES, "a PNG shows one image; send one at a time, or ask for JSON")
    options = read_parameters(None, payload.options, EXPLAINING)
    why = Why.read(options, classes, png=png)
    uploads = _uploads(payload, settings)
    check_pictures(uploads, why)
    return Request(uploads, Options.read(options, settings), why)


def _wants_png(accept: str) -> bool:
    named = {name for name, quality in qualities(accept).items() if quality > 0}
    return PNG in named and not any("json" in name for name in named)


def _uploads(payload: Images, settings: Settings) -> list[Upload]:
    check_count(len(payload.parts), settings)
    empty = Failure(Code.NO_IMAGE, "this part is empty; send the image's bytes in it, or leave it out")
    return [Upload(content or empty, name) for name, content in payload.parts.items()]


def refuse(failure: Failure) -> Reply:
    """The answer to a request that failed as a whole."""
    return document(error(failure), failure.code.status)


def result(outcome: Outcome, options: Options, model: Mapping[str, str]) -> dict[str, object]:
    """What is said of one image."""
    if isinstance(outcome, Failure):
        return error(outcome)
    best = outcome.predictions[0]
    rows = [_row(prediction) for prediction in outcome.predictions]
    return {
        "success": True,
        "class_id": best.class_id,
        "class_name": best.label,
        "predictions": rows,
        "recognized": outcome.recognized(options.min_probability),
        "model": model,
    }


def explained(outcome: Outcome) -> dict[str, object]:
    """What is said of where one image's classes were seen."""
    if isinstance(outcome, Failure):
        return error(outcome)
    rows = [_explanation(explanation) for explanation in outcome.explanations]
    return {"success": True, "explanations": rows} | ({"crop": outcome.crop} if outcome.crop else {})


def _row(prediction: Prediction) -> dict[str, object]:
    return {"class_id": prediction.class_id, "label": prediction.label, "probability": prediction.probability}


def _explanation(explanation: Explanation) -> dict[str, object]:
    pictures = {"overlay": explanation.overlay, "picture": explanation.picture}
    return {
        **_row(explanation.prediction),
        "logit": explanation.prediction.logit,
        "bias": explanation.bias,
        "map": explanation.map,
        **{name: base64.b64encode(png).decode("ascii") for name, png in pictures.items() if png},
    }


def _png(explanation: Explanation) -> Reply:
    return Reply(explanation.overlay or explanation.picture or b"", content_type=PNG)


def error(failure: Failure) -> dict[str, object]:
    """A failure, of one image or of a request."""
    return {"success": False, "error": {"code": failure.code.value, "message": failure.message}}
