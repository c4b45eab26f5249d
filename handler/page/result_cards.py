"""Render the result cards of a posted form. cards.js fills the same templates in the browser."""

import base64
import io
import json
from collections.abc import Mapping, Sequence

from PIL import Image

from handler.errors import RequestError
from handler.page.i18n import ERROR, NEGLIGIBLE, for_people, number, percent
from handler.page.markup import Markup, attributes, element, fill, join
from handler.protocols import native
from handler.ranking import Prediction
from handler.results import ImageResult

SHOWN = 960  # pixels; longer side of the photo on a card
_PLACEHOLDERS = (
    *("state", "photo", "alt", "name", "best", "message", "note", "classes"),
    *("more", "more_classes", "time", "summary", "reason", "json"),
)
_TEXTS = ("heatmap_weak", "heatmap_strong", "heatmap_outside", "explain_hint", "retry", "copy_curl", "remove")


def blank(words: Mapping[str, str]) -> Markup:
    """Return the empty card that cards.js fills."""
    return _card(words)


def blank_class() -> Markup:
    """Return the empty row of a class that cards.js fills; a button that shows the class's explanation."""
    return fill("class.html", tag="button", lang="", name="", id="", share="", width="0")


def classified(
    words: Mapping[str, str],
    result: ImageResult,
    *,
    min_probability: float | None,
    unrecognized: str,
    name: str,
    photo: str,
    seconds: float,
    answer: object,
) -> Markup:
    """Return the card of a classified photo. The heading is its best class, or that it is not recognized.

    min_probability: the form's; unrecognized: why a photo is not recognized without it; name: of the form part; photo:
    a data URL; seconds: the duration of the request; answer: the JSON of the API's answer.
    """
    recognized = result.recognized(min_probability)
    best, others = (result.predictions[:1], result.predictions[1:]) if recognized else ((), result.predictions)
    # The first row is never folded away, however small its probability.
    count = max(1 - len(best), sum(prediction.probability >= NEGLIGIBLE for prediction in others))
    shown, more = others[:count], others[count:]
    return _card(
        words,
        state="recognized" if recognized else "unrecognized",
        name=name,
        photo=photo,
        alt=words["sent_photo"],
        best=join(_class(prediction, words) for prediction in best) or words["not_recognized"],
        message="" if recognized else unrecognized if min_probability is None else below(min_probability, words),
        classes=_items(shown, words),
        more=words["more_classes"].format(count=len(more), share=percent(NEGLIGIBLE, words)) if more else "",
        more_classes=_items(more, words),
        time=words["seconds"].format(number=number(seconds, 2, words)),
        summary="JSON",
        json=json.dumps(answer, indent=2),
    )


def below(min_probability: float, words: Mapping[str, str]) -> str:
    """Return the text for a photo whose best class is below a threshold in 0..1."""
    return words["below_threshold"].format(threshold=percent(min_probability, words))


def refused(words: Mapping[str, str], error: RequestError, name: str = "") -> Markup:
    """Return the card of a rejected photo: the text of the error's code, and behind it the error's own message."""
    return _card(
        words,
        state="refused",
        name=name,
        best=words["refused"],
        message=words[f"{ERROR}{error.code}"],
        summary=words["details"],
        reason=error.message,
        json=json.dumps(native.error(error), indent=2),
    )


def to_data_url(photo: Image.Image) -> str:
    """Encode an RGB photo as a new JPEG in a data URL, without the upload's metadata."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _card(words: Mapping[str, str], **values: str) -> Markup:
    texts = {name: words[name] for name in _TEXTS}
    return fill("card.html", **{**dict.fromkeys(_PLACEHOLDERS, ""), **texts, **values})


def _items(predictions: Sequence[Prediction], words: Mapping[str, str]) -> Markup:
    return join(element("li", _class(prediction, words)) for prediction in predictions)


def _class(prediction: Prediction, words: Mapping[str, str]) -> Markup:
    return fill(
        "class.html",
        tag="span",
        lang=attributes(**_language(prediction.label)),
        name=for_people(prediction.label),
        id="" if prediction.class_id == prediction.label else prediction.class_id,
        share=percent(prediction.probability, words),
        width=f"{prediction.probability:.4%}",
    )


def _language(label: str) -> dict[str, str]:
    """Return lang="en" for ASCII labels; the language of other labels is unknown. common.js has the same rule."""
    return {"lang": "en"} if label.isascii() else {}
