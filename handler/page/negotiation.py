"""Content negotiation of the page: whether to return HTML, and in which language."""

from collections.abc import Mapping

from handler.accept import qualities

HTML = "text/html"
LANGUAGES = {"en": "en", "ko": "ko", "zh": "zh-Hans"}
"""Available languages: the primary subtag of Accept-Language, and the page's `lang` attribute."""
DEFAULT = "en"

# Java's HttpURLConnection sends this by default; it begins like a browser's header, but is not from a browser.
_JAVA = "text/html, image/gif, image/jpeg"


def wants_page(headers: Mapping[str, str]) -> bool:
    """Return whether Accept prefers text/html to JSON, as browsers do. headers: by lower-case name."""
    accept = headers.get("accept", "")
    weights = qualities(accept)
    html = weights.get(HTML, 0)
    return html > 0 and html >= weights.get("application/json", 0) and not accept.startswith(_JAVA)


def language(headers: Mapping[str, str]) -> str:
    """Return the best available language by Accept-Language: a key of LANGUAGES."""
    weights = qualities(headers.get("accept-language", ""))
    for tag in sorted(weights, key=lambda tag: -weights[tag]):  # the sort is stable: ties keep their order
        primary = tag.partition("-")[0]
        if weights[tag] > 0 and primary in LANGUAGES:
            return primary
        if weights[tag] > 0 and tag == "*":
            break
    return DEFAULT
