"""Text for messages to clients."""

import json
import re
from collections.abc import Collection, Mapping

HOW_TO_SEND = "send the image's bytes (curl -T photo.jpg URL) or a multipart form (curl -F file=@photo.jpg URL)"
_SHOWN = 3  # entries of a list or an object
_LONGEST = 40  # characters of a text or a number
_URL = re.compile(r"\s*[a-z][a-z0-9+.-]{1,20}://", re.IGNORECASE)


def join_words(names: Collection[str]) -> str:
    """Join names for a sentence: "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def is_url(value: object) -> bool:
    """Return whether a client's value is the text of a URL."""
    return isinstance(value, str) and _URL.match(value) is not None


def quote_for_message(value: object) -> str:
    """Quote a client's value for a message as in JSON, but text in single quotes: escaped to ASCII and shortened."""
    match value:
        case list():
            return f"[{_some([_brief(entry) for entry in value[:_SHOWN]], len(value))}]"
        case Mapping():
            pairs = [f"{_brief(key)}: {_brief(value[key])}" for key in list(value)[:_SHOWN]]
            return f"{{{_some(pairs, len(value))}}}"
    return _brief(value)


def _some(entries: list[str], count: int) -> str:
    return ", ".join([*entries, "…"] if count > len(entries) else entries)


def _brief(value: object) -> str:
    match value:
        case str():
            return ascii(value[:_LONGEST]) + ("…" if len(value) > _LONGEST else "")
        case list():
            return "[…]" if value else "[]"
        case Mapping():
            return "{…}" if value else "{}"
    text = json.dumps(value)
    return text[:_LONGEST] + ("…" if len(text) > _LONGEST else "")
