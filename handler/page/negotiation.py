"""What a browser asks for by its headers: a page at all, and in which language."""

from collections.abc import Mapping

from handler.accept import qualities

HTML = "text/html"
LANGUAGES = {"en": "en", "ko": "ko", "zh": "zh-Hans"}
"""Our languages by the first subtag that asks for them, and what the page's `lang` says."""
DEFAULT = "en"

# What Java's HttpURLConnection sends unless told otherwise: no browser, though it begins like one.
_JAVA = "text/html, image/gif, image/jpeg"


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
