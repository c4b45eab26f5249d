"""Our own answers, a superset of the Flask and Keras tutorials': one object for one image, `results` for several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handler.failures import Code, Failure
from handler.payload import Images
from handler.reply import Reply, document
from handler.request import Options, Outcome, Upload, check_count, read_parameters
from handler.settings import Settings

_OPTIONS = ("top_k", "min_probability")


@dataclass(frozen=True)
class Request:
    """One or several encoded images."""

    uploads: Sequence[Upload]
    options: Options

    @property
    def top_k(self) -> int:
        """How many classes the answer lists."""
        return self.options.top_k

    def answer(self, outcomes: Sequence[Outcome], model: Mapping[str, str]) -> Reply:
        """An object, or a list of results with their parts' names. Raises the Failure of an only image."""
        if len(outcomes) == 1:
            if isinstance(outcomes[0], Failure):
                raise outcomes[0]
            return document(result(outcomes[0], self.options, model))
        pairs = zip(self.uploads, outcomes, strict=True)
        results = [{"name": upload.name} | result(outcome, self.options, model) for upload, outcome in pairs]
        return document({"success": True, "results": results})


def read(payload: Images, settings: Settings) -> Request:
    """Every part is an image. Raises Failure: too_many_images, bad_option."""
    check_count(len(payload.parts), settings)
    empty = Failure(Code.NO_IMAGE, "this part is empty; send the image's bytes in it, or leave it out")
    uploads = [Upload(content or empty, name) for name, content in payload.parts.items()]
    return Request(uploads, Options.read(read_parameters(None, payload.options, _OPTIONS), settings))


def refuse(failure: Failure) -> Reply:
    """The answer to a request that failed as a whole."""
    return document(error(failure), failure.code.status)


def result(outcome: Outcome, options: Options, model: Mapping[str, str]) -> dict[str, object]:
    """What is said of one image."""
    if isinstance(outcome, Failure):
        return error(outcome)
    best = outcome[0]
    rows = [{"class_id": row.class_id, "label": row.label, "probability": row.probability} for row in outcome]
    return {
        "success": True,
        "class_id": best.class_id,
        "class_name": best.label,
        "predictions": rows,
        "recognized": best.probability >= options.min_probability,
        "model": model,
    }


def error(failure: Failure) -> dict[str, object]:
    """A failure, of one image or of a request."""
    return {"success": False, "error": {"code": failure.code.value, "message": failure.message}}
