"""HTML from the templates beside this module: whatever is filled in is escaped, unless it is markup already."""

import base64
import hashlib
import html
import json
import string
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent


class Markup(str):
    """Text that is HTML already."""


def fill(template: str, **values: str) -> Markup:
    """The template file of that name, its $places taken by the values."""
    return Markup(_template(template).substitute({name: escape(value) for name, value in values.items()}))


def element(tag: str, content: str, **named: str) -> Markup:
    """One element with these attributes."""
    return Markup(f"<{tag}{attributes(**named)}>{escape(content)}</{tag}>")


def attributes(**named: str) -> Markup:
    """Attributes as they stand in a tag; `class_` is class."""
    return Markup("".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in named.items()))


def join(parts: Iterable[Markup]) -> Markup:
    """One after the other."""
    return Markup("".join(parts))


def escape(text: str) -> Markup:
    """The text as HTML, for content and for quoted attributes; markup as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(text))


def data(content: object) -> Markup:
    """JSON for a script element, which no text in it can end."""
    return Markup(json.dumps(content, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c"))


@cache
def inline(name: str) -> Markup:
    """A file of ours to stand in a style or script element."""
    return Markup("\n" + (_FOLDER / name).read_text(encoding="utf-8"))


@cache
def policy() -> str:
    """The Content-Security-Policy: our one style and our one script, photos from memory, requests to this service."""
    rules = {
        "default-src": "'none'",
        "script-src": _source(inline("page.js")),
        "style-src": _source(inline("page.css")),
        "img-src": "data: blob:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _template(name: str) -> string.Template:
    return string.Template((_FOLDER / name).read_text(encoding="utf-8").rstrip())
