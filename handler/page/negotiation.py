"""What a browser asks for by its headers: a page at all, and in which language."""

import re
from collections.abc import Mapping

HTML = "text/html"
LANGUAGES = {"en": "en", "ko": "ko", "zh": "zh-Hans"}
"""Our languages by the first subtag that asks for them, and what the page's `lang` says."""
DEFAULT = "en"

# What Java's HttpURLConnection sends unless told otherwise: no browser, though it begins like one.
_JAVA = "text/html, image/gif, image/jpeg"
_QUALITY = re.compile(r"\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*", re.IGNORECASE)


def wants_page(headers: Mapping[str, str]) -> bool:
    """Whether Accept names text/html, and JSON not before it; programs do not. headers: by lower-case name."""
    accept = headers.get("accept", "")
    named = qualities(accept)
    html = named.get(HTML, 0)
    return html > 0 and html >= named.get("application/json", 0) and not accept.startswith(_JAVA)


def language(headers: Mapping[str, str]) -> str:
    """The best of our languages by Accept-Language: a key of LANGUAGES."""
    asked = qualities(headers.get("accept-language", ""))
    for tag in sorted(asked, key=lambda tag: -asked[tag]):  # equals stay in their order
        primary = tag.partition("-")[0]
        if asked[tag] > 0 and primary in LANGUAGES:
            return primary
        if asked[tag] > 0 and tag == "*":
            break
    return DEFAULT


def qualities(header: str) -> dict[str, float]:
    """`a, b;q=0.5` → {"a": 1.0, "b": 0.5}, in lower case and in order; an unreadable quality counts as 1."""
    found: dict[str, float] = {}
    for entry in header.split(","):
        name, *parameters = entry.split(";")
        matches = [match for parameter in parameters if (match := _QUALITY.fullmatch(parameter))]
        if name := name.strip().lower():
            found.setdefault(name, float(matches[0][1]) if matches else 1.0)
    return found
