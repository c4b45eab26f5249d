"""Reply: from ranked labels or failures to the bytes, status and content type of one answer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from handler.failures import Code, Failure
from handler.labels import Prediction
from handler.payload import Options, Request, Shape

_PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; form-action 'self'">
<title>What is on this photo?</title>
<form method="post" enctype="multipart/form-data">
<label>Photo <input type="file" name="file" accept="image/*" required></label>
<button>Classify</button>
</form>
</html>
"""

Outcome = tuple[Prediction, ...] | Failure
"""What became of one image: its ranked classes, or why there are none."""


@dataclass(frozen=True)
class Reply:
    """One HTTP answer. content_type is a constant of ours: a client's words there would break the worker's protocol."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"


def success(request: Request, outcomes: Sequence[Outcome], model: Mapping[str, str], *, max_bytes: int) -> Reply:
    """The answer to a request whose images were all looked at, in the shape it is due in.

    outcomes: one an upload, in its order; model: the answer's `model` object.
    Raises Failure: answer_too_large beyond max_bytes; the failure itself where the only image has one.
    """
    results = [_result(outcome, request.options, model) for outcome in outcomes]
    document: object
    if request.shape is Shape.SINGLE:
        if isinstance(outcomes[0], Failure):
            raise outcomes[0]
        document = results[0]
    elif request.shape is Shape.RESULTS:
        named = [{"name": upload.name} | result for upload, result in zip(request.uploads, results, strict=True)]
        document = {"success": True, "results": named}
    else:
        document = {"predictions": results}
    reply = Reply(_encode(document))
    if len(reply.body) > max_bytes:
        raise Failure(Code.ANSWER_TOO_LARGE, "the answer would be too large; ask for a smaller top_k or fewer images")
    return reply


def failure(error: Failure) -> Reply:
    """The answer to a request that failed as a whole."""
    return Reply(_encode(_error(error)), status=error.code.status)


def document(content: Mapping[str, object]) -> Reply:
    """A JSON document as it is, the model card for one."""
    return Reply(_encode(content))


def wants_page(headers: Mapping[str, str]) -> bool:
    """Whether a person's browser asks: it alone names text/html. headers: by lower-case name."""
    return "text/html" in headers.get("accept", "")


def upload_page() -> Reply:
    """A page to choose a photo on; its form posts back to the same address."""
    return Reply(_PAGE, content_type="text/html; charset=utf-8")


def _result(outcome: Outcome, options: Options, model: Mapping[str, str]) -> dict[str, object]:
    if isinstance(outcome, Failure):
        return _error(outcome)
    best = outcome[0]
    return {
        "success": True,
        "class_id": best.class_id,
        "class_name": best.label,
        "predictions": [asdict(prediction) for prediction in outcome],
        "recognized": best.probability >= options.min_probability,
        "model": model,
    }


def _error(error: Failure) -> dict[str, object]:
    return {"success": False, "error": {"code": error.code.value, "message": error.message}}


def _encode(content: object) -> bytes:
    # NaN is no JSON; ASCII escapes keep whatever a client named its parts harmless to every reader.
    return json.dumps(content, allow_nan=False).encode("ascii")
