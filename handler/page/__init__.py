"""The HTML page: a browser gets it at the service's address, and with result cards when it posts the form.

With JavaScript, the scripts in this folder send API requests and render the JSON. Without it, the browser posts the
form, and this package renders the results.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from handler import decoding, reply
from handler.calibration import Calibration
from handler.errors import RequestError
from handler.page import model_info, negotiation, result_cards
from handler.page.i18n import ERROR, number, size, texts
from handler.page.markup import Markup, data, element, fill, join, policy, script, style
from handler.payload import Uploads, wants_explanations
from handler.protocols import ProtocolAdapter, native
from handler.ranking import ClassIndex
from handler.reply import Reply
from handler.request import Request, Upload
from handler.results import ImageResult
from handler.settings import Settings

_HEADERS = {
    "Content-Security-Policy": policy(),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Vary": "Accept, Accept-Language",
}


@dataclass(frozen=True)
class PageContext:
    """What a page depends on: its language, a key of negotiation.LANGUAGES, and its form's action URL."""

    language: str
    action: str


@dataclass(frozen=True)
class Page:
    """The page of one loaded model.

    model: its name, version, weights and precision, as responses contain them.
    """

    card: Mapping[str, Any]
    model: Mapping[str, str]
    settings: Settings
    calibration: Calibration | None = None

    def negotiate(self, headers: Mapping[str, str]) -> Reply | None:
        """Return the page for a browser's request without an image, or None. headers: by lower-case name."""
        return self.reply(self._context(headers)) if negotiation.wants_page(headers) else None

    def protocol(self, headers: Mapping[str, str]) -> ProtocolAdapter | None:
        """Return the protocol of a form that a browser posts, or None for any other request."""
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        if not is_form or not negotiation.wants_page(headers):
            return None
        context = self._context(headers)
        words = texts(context.language)

        def read(payload: Uploads, settings: Settings, _: ClassIndex | None = None) -> FormRequest:
            request = native.read(payload, settings)
            return FormRequest(request.uploads, request.options, page=self, context=context)

        return ProtocolAdapter(
            "page",
            read=read,
            # Only scripts show explanations, so a form posted to /explanations gets the normal page.
            explain=read,
            error_reply=lambda error: self.reply(context, [result_cards.refused(words, error)], error.code.status),
        )

    def reply(self, context: PageContext, cards: Sequence[Markup] = (), status: int = 200) -> Reply:
        """Return the page with these result cards."""
        body = self._document(context, cards).encode()
        language = {"Content-Language": context.language}
        return Reply(body, status, content_type="text/html; charset=utf-8", headers=_HEADERS | language)

    def _context(self, headers: Mapping[str, str]) -> PageContext:
        # TorchServe does not tell the handler the request's path, only whether it is /explanations.
        path = self._address if wants_explanations(headers) else ""
        return PageContext(negotiation.language(headers), f"{path}#results")

    @property
    def _address(self) -> str:
        return f"/predictions/{quote(self.model['name'], safe='')}"

    @property
    def _versioned(self) -> str:
        """Return the address with the version, after which TorchServe passes on what follows, as `url_path`."""
        return f"{self._address}/{quote(self.model['version'], safe='')}"

    def _document(self, context: PageContext, cards: Sequence[Markup]) -> Markup:
        words = texts(context.language)
        limit = size(self.settings.max_request_bytes, words)
        untrained = self.model["weights"] == "untrained"
        classes = number(self.card["classes"]["count"], 0, words)
        values = {
            "lang": context.language,
            "state": "answered" if cards else "",
            "action": context.action,
            "language_name": negotiation.LANGUAGES[context.language],
            "languages": self._languages(context.language),
            "banner": element("p", words["untrained_banner"], class_="banner") if untrained else "",
            "tagline": words["tagline"].format(classes=classes),
            "limits": words["limits"].format(formats=decoding.ACCEPTED.replace(" or ", ", "), limit=limit),
            "cards": join(cards),
            **{f"download_{name.lower()}": words["download"].format(format=name) for name in ("CSV", "JSON")},
            "about_rows": model_info.rows(self.card, self.model, self.settings.min_probability, words),
            "card_address": f"{self._versioned}/{reply.MODEL_CARD}",
            "card_template": result_cards.blank(words),
            "class_template": result_cards.blank_class(),
            "facts": data(self._facts(words, limit)),
        }
        return fill("page.html", style=style(), script=script(), **{**words, **values})

    def _languages(self, chosen: str) -> Markup:
        """Return a link to the page in each language."""
        return join(
            element(
                "li",
                element(
                    "a",
                    name,
                    href=f"{self._versioned}/{language}",
                    lang=language,
                    hreflang=language,
                    **({"aria-current": "true"} if language == chosen else {}),
                ),
            )
            for language, name in negotiation.LANGUAGES.items()
        )

    def unrecognized(self, words: Mapping[str, str]) -> str:
        """Return why a photo is not recognized."""
        if self.calibration and self.calibration.bound < 1:
            return words["unsure"]
        return result_cards.below(self.settings.min_probability, words)

    def _facts(self, words: Mapping[str, str], limit: str) -> dict[str, object]:
        """Return the data that the scripts need, with the texts that they mention and those of error codes."""
        used = set(re.findall(r"\btexts\.(\w+)", script()))
        return {
            "texts": {name: text for name, text in words.items() if name in used or name.startswith(ERROR)}
            | {"limit": limit},
            "limit": self.settings.max_request_bytes,
            "unrecognized": self.unrecognized(words),
            "model": self.model["name"],
            "version": self.model["version"],
        }


@dataclass(frozen=True, kw_only=True)
class FormRequest(Request):
    """A posted form: a native request that is answered with the page."""

    page: Page
    context: PageContext
    started: float = field(default_factory=time.perf_counter)

    @property
    def shown(self) -> int:
        """Return the longer side in pixels of the photo on a card."""
        return result_cards.SHOWN

    def answer(self, outcomes: Sequence[ImageResult | RequestError], model: Mapping[str, object]) -> Reply:
        """Return the page with one card per image.

        Raises:
            RequestError: the error of a single image.
        """
        if len(outcomes) == 1 and isinstance(outcomes[0], RequestError):
            raise outcomes[0]
        pairs = zip(self.uploads, outcomes, strict=True)
        return self.page.reply(self.context, [self._card(upload, outcome, model) for upload, outcome in pairs])

    def _card(self, upload: Upload, outcome: ImageResult | RequestError, model: Mapping[str, object]) -> Markup:
        words = texts(self.context.language)
        name = upload.name or "" if len(self.uploads) > 1 else ""
        if isinstance(outcome, RequestError):
            return result_cards.refused(words, outcome, name)
        return result_cards.classified(
            words,
            outcome,
            min_probability=self.options.min_probability,
            unrecognized=self.page.unrecognized(words),
            name=name,
            photo=result_cards.to_data_url(outcome.shown) if outcome.shown else "",
            seconds=time.perf_counter() - self.started,
            answer=native.result(outcome, self.options, model),
        )
