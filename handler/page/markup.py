"""Render the HTML templates in this folder. Values are escaped unless they are Markup."""

import base64
import hashlib
import json
import string
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from markupsafe import Markup as Markup  # repeated, so that it is exported
from markupsafe import escape

_FOLDER = Path(__file__).parent
_SCRIPTS = ("common.js", "service.js", "images.js", "cards.js", "tiles.js", "downloads.js", "page.js")


def fill(template: str, **values: str) -> Markup:
    """Render a template file: replace its $placeholders by the values."""
    return Markup(_template(template).substitute({name: escape(value) for name, value in values.items()}))


def element(tag: str, content: str, **named: str) -> Markup:
    """Return one element with these attributes."""
    return Markup("<{}{}>{}</{}>").format(tag, attributes(**named), content, tag)


def attributes(**named: str) -> Markup:
    """Return attributes for a tag; `class_` becomes class."""
    return Markup("").join(Markup(' {}="{}"').format(name.rstrip("_"), value) for name, value in named.items())


def join(parts: Iterable[Markup]) -> Markup:
    """Concatenate the parts."""
    return Markup("").join(parts)


def data(content: object) -> Markup:
    """Encode JSON for a script element, so that no text in it can close the element."""
    return Markup(json.dumps(content, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c"))


@cache
def script() -> Markup:
    """Return the content of the page's script element: the scripts in this folder, in order."""
    return Markup("").join(_inline(name) for name in _SCRIPTS)


@cache
def style() -> Markup:
    """Return the content of the page's style element."""
    return _inline("page.css")


def _inline(name: str) -> Markup:
    return Markup("\n" + (_FOLDER / name).read_text(encoding="utf-8"))


@cache
def policy() -> str:
    """Return the Content-Security-Policy: the page's style and script, data: and blob: images, this service's API."""
    rules = {
        "default-src": "'none'",
        "script-src": _source(script()),
        "style-src": _source(style()),
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
