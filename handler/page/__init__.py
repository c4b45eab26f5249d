"""The page for people: shown to a browser that opens the service's address, and with the answer when it posts a photo.

With JavaScript page.js asks as any program does and shows the JSON; without it the form is posted, and answered here.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from handler import imaging
from handler.failures import Failure
from handler.page import about, cards, negotiation
from handler.page.markup import Markup, data, element, fill, inline, join, policy
from handler.page.wording import size, texts
from handler.payload import wants_explanations
from handler.protocols import Protocol, native
from handler.reply import Reply
from handler.request import Outcome, Upload
from handler.settings import Settings

_HEADERS = {
    "Content-Security-Policy": policy(),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Vary": "Accept, Accept-Language",
}


@dataclass(frozen=True)
class Visitor:
    """Whom a page is for: a key of negotiation.LANGUAGES, and where the page's form goes."""

    language: str
    action: str


@dataclass(frozen=True)
class Page:
    """The page of one loaded model: its card, what answers say of it, and the settings that it answers with."""

    card: Mapping[str, Any]
    model: Mapping[str, str]
    settings: Settings

    def instead_of_an_answer(self, headers: Mapping[str, str]) -> Reply | None:
        """The page, if a browser asks without an image. headers: by lower-case name."""
        return self.reply(self._visitor(headers)) if negotiation.wants_page(headers) else None

    def protocol(self, headers: Mapping[str, str]) -> Protocol | None:
        """How the form that a browser posts is read and refused; None for any other request."""
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        if not is_form or not negotiation.wants_page(headers):
            return None
        visitor = self._visitor(headers)
        words = texts(visitor.language)
        return Protocol(
            "page",
            read=lambda payload, settings: Posted(native.read(payload, settings), self, visitor),
            # Where it was seen is shown by page.js alone: a form at that address is answered like any other.
            explain=lambda payload, settings, _: Posted(native.read(payload, settings), self, visitor),
            refusal=lambda failure: self.reply(visitor, [cards.refused(words, failure)], failure.code.status),
        )

    def reply(self, visitor: Visitor, answers: Sequence[Markup] = (), status: int = 200) -> Reply:
        """The page with these cards on it."""
        body = self._document(visitor, answers).encode()
        more = {"Content-Language": negotiation.LANGUAGES[visitor.language]}
        return Reply(body, status, content_type="text/html; charset=utf-8", headers=_HEADERS | more)

    def _visitor(self, headers: Mapping[str, str]) -> Visitor:
        # TorchServe does not say under which address a page was asked for, but whether under that of explanations.
        own = f"/predictions/{quote(self.model['name'], safe='')}" if wants_explanations(headers) else ""
        return Visitor(negotiation.language(headers), f"{own}#results")

    def _document(self, visitor: Visitor, answers: Sequence[Markup]) -> Markup:
        language = visitor.language
        words = texts(language)
        limit = size(self.settings.max_request_bytes)
        untrained = self.model["weights"] == "untrained"
        changing = {
            "lang": negotiation.LANGUAGES[language],
            "state": "answered" if answers else "",
            "action": visitor.action,
            "banner": element("p", words["untrained"], class_="banner") if untrained else "",
            "tagline": words["tagline"].format(classes=f"{self.card['classes']['count']:,}"),
            "limits": words["limits"].format(formats=imaging.ACCEPTED.replace(" or ", ", "), limit=limit),
            "cards": join(answers),
            "about_rows": about.rows(self.card, self.model, self.settings.min_probability, words),
            "card_template": cards.blank(words),
            "class_template": cards.blank_class(),
            "facts": data(self._facts(words, limit)),
        }
        return fill("page.html", style=inline("page.css"), script=inline("page.js"), **{**words, **changing})

    def _facts(self, words: Mapping[str, str], limit: str) -> dict[str, object]:
        """What page.js has to know."""
        return {
            "texts": {**words, "limit": limit},
            "limit": self.settings.max_request_bytes,
            "least": self.settings.min_probability,
            "model": self.model["name"],
        }


@dataclass(frozen=True)
class Posted:
    """A form's post: a request of our own protocol, answered with a page."""

    asked: native.Request
    page: Page
    visitor: Visitor
    started: float = field(default_factory=time.perf_counter)

    @property
    def uploads(self) -> Sequence[Upload]:
        """The images in the order sent."""
        return self.asked.uploads

    @property
    def top_k(self) -> int:
        """How many classes a card lists."""
        return self.asked.top_k

    @property
    def min_probability(self) -> float:
        """From where on a photo counts as recognized."""
        return self.asked.min_probability

    @property
    def why(self) -> None:
        """A page shows explanations by its script, which asks for them as any program does."""
        return None

    @property
    def shown(self) -> int:
        """A card shows its photo."""
        return cards.SHOWN

    def answer(self, outcomes: Sequence[Outcome], model: Mapping[str, str]) -> Reply:
        """A card an image. Raises the Failure of an only image."""
        if len(outcomes) == 1 and isinstance(outcomes[0], Failure):
            raise outcomes[0]
        pairs = zip(self.uploads, outcomes, strict=True)
        return self.page.reply(self.visitor, [self._card(upload, outcome, model) for upload, outcome in pairs])

    def _card(self, upload: Upload, outcome: Outcome, model: Mapping[str, str]) -> Markup:
        words = texts(self.visitor.language)
        name = upload.name or "" if len(self.uploads) > 1 else ""
        if isinstance(outcome, Failure):
            return cards.refused(words, outcome, name)
        return cards.answered(
            words,
            outcome,
            least=self.asked.options.min_probability,
            name=name,
            photo=cards.to_data_url(outcome.shown) if outcome.shown else "",
            seconds=time.perf_counter() - self.started,
            behind=native.result(outcome, self.asked.options, model),
        )
