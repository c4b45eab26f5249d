"""Render the result cards of a posted form. page.js fills the same templates in the browser."""

import base64
import io
import json
from collections.abc import Mapping

from PIL import Image

from handler.errors import RequestError
from handler.page.i18n import for_people, percent
from handler.page.markup import Markup, attributes, element, fill, join
from handler.protocols import native
from handler.ranking import Prediction
from handler.results import ImageResult

SHOWN = 960  # pixels; longer side of the photo on a card
_PLACEHOLDERS = ("state", "photo", "alt", "name", "best", "message", "note", "classes", "time", "json")
_BUTTONS = ("choose_class", "retry", "curl")


def blank(words: Mapping[str, str]) -> Markup:
    """Return the empty card that page.js fills."""
    return _card(words)


def blank_class() -> Markup:
    """Return the empty row of a class that page.js fills; a button that shows the class's explanation."""
    return fill("class.html", tag="button", lang="", name="", id="", share="", width="0")


def classified(
    words: Mapping[str, str],
    result: ImageResult,
    *,
    min_probability: float,
    name: str,
    photo: str,
    seconds: float,
    answer: object,
) -> Markup:
    """Return the card of a classified photo.

    min_probability: 0..1, for the photo to be recognized; name: of the form part; photo: a data URL; seconds: the
    duration of the request; answer: the JSON of the API's answer.
    """
    best, recognized = result.predictions[0], result.recognized(min_probability)
    return _card(
        words,
        state="known" if recognized else "unknown",
        name=name,
        photo=photo,
        alt=words["sent"],
        best=element("span", for_people(best.label), **_language(best.label)) if recognized else words["unknown"],
        message="" if recognized else words["below"].format(minimum=percent(min_probability)),
        classes=join(_class(prediction) for prediction in result.predictions),
        time=words["seconds"].format(seconds=f"{seconds:.2f}"),
        json=json.dumps(answer, indent=2),
    )


def refused(words: Mapping[str, str], error: RequestError, name: str = "") -> Markup:
    """Return the card of a rejected photo, with the error's message."""
    return _card(
        words,
        state="refused",
        name=name,
        best=words["refused"],
        message=element("span", error.message, lang="en"),
        json=json.dumps(native.error(error), indent=2),
    )


def to_data_url(photo: Image.Image) -> str:
    """Encode an RGB photo as a new JPEG in a data URL, without the upload's metadata."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _card(words: Mapping[str, str], **values: str) -> Markup:
    return fill(
        "card.html", **{**dict.fromkeys(_PLACEHOLDERS, ""), **{name: words[name] for name in _BUTTONS}, **values}
    )


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
    """Return lang="en" for ASCII labels; the language of other labels is unknown. page.js has the same rule."""
    return {"lang": "en"} if label.isascii() else {}
