"""What the page says of one photo, where the form was posted; page.js fills the same templates by itself."""

import base64
import io
import json
from collections.abc import Mapping

from PIL import Image

from handler.failures import Failure
from handler.labels import Prediction
from handler.page.markup import Markup, attributes, element, fill, join
from handler.page.wording import for_people, percent
from handler.protocols import native
from handler.request import Seen

SHOWN = 960  # pixels, the longer side of a photo shown back
_PLACES = ("state", "photo", "alt", "name", "best", "message", "note", "classes", "time", "json")
_TOOLS = ("choose_class", "retry", "curl")


def blank(words: Mapping[str, str]) -> Markup:
    """The card that page.js fills."""
    return _card(words)


def blank_class() -> Markup:
    """The line of a class that page.js fills; a button, since it can show where the class was seen."""
    return fill("class.html", tag="button", lang="", name="", id="", share="", width="0")


def answered(
    words: Mapping[str, str],
    seen: Seen,
    *,
    least: float,
    name: str,
    photo: str,
    seconds: float,
    behind: object,
) -> Markup:
    """What was seen. least: the probability from which a photo counts as recognized; behind: the answer as JSON."""
    best, known = seen.predictions[0], seen.recognized(least)
    return _card(
        words,
        state="known" if known else "unknown",
        name=name,
        photo=photo,
        alt=words["sent"],
        best=element("span", for_people(best.label), **_language(best.label)) if known else words["unknown"],
        message="" if known else words["below"].format(least=percent(least)),
        classes=join(_class(prediction) for prediction in seen.predictions),
        time=words["seconds"].format(seconds=f"{seconds:.2f}"),
        json=json.dumps(behind, indent=2),
    )


def refused(words: Mapping[str, str], failure: Failure, name: str = "") -> Markup:
    """Why there is no answer, in the failure's own words."""
    return _card(
        words,
        state="refused",
        name=name,
        best=words["refused"],
        message=element("span", failure.message, lang="en"),
        json=json.dumps(native.error(failure), indent=2),
    )


def to_data_url(photo: Image.Image) -> str:
    """An RGB photo as a data URL, drawn anew, so that nothing but its pixels comes back."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _card(words: Mapping[str, str], **values: str) -> Markup:
    return fill("card.html", **{**dict.fromkeys(_PLACES, ""), **{name: words[name] for name in _TOOLS}, **values})


def _class(prediction: Prediction) -> Markup:
    return fill(
        "class.html",
        tag="div",
        lang=attributes(**_language(prediction.label)),
        name=for_people(prediction.label),
        id="" if prediction.class_id == prediction.label else prediction.class_id,
        share=percent(prediction.probability),
        width=f"{prediction.probability:.4%}",
    )


def _language(label: str) -> dict[str, str]:
    """The attribute that says so of an English name; of others nobody has said what they are. page.js agrees."""
    return {"lang": "en"} if label.isascii() else {}
