"""Content negotiation of the page: whether to return HTML, and in which language."""

from collections.abc import Mapping

from handler.accept import qualities

HTML = "text/html"
LANGUAGES = {
    "en": "English",
    "de": "Deutsch",
    "es": "Español",
    "fr": "Français",
    "ja": "日本語",
    "ko": "한국어",
    "zh-Hans": "简体中文",
    "zh-Hant": "繁體中文",
}
"""Available languages: the page's `lang` attribute, and the language's own name."""
DEFAULT = "en"

_TRADITIONAL = {"hant", "tw", "hk", "mo"}  # the script, or regions that write it
# Java's HttpURLConnection sends this by default; it begins like a browser's header, but is not from a browser.
_JAVA = "text/html, image/gif, image/jpeg"


def wants_page(headers: Mapping[str, str]) -> bool:
    """Return whether Accept prefers text/html to JSON, as browsers do. headers: by lower-case name."""
    accept = headers.get("accept", "")
    weights = qualities(accept)
    html = weights.get(HTML, 0)
    return html > 0 and html >= weights.get("application/json", 0) and not accept.startswith(_JAVA)


def language(headers: Mapping[str, str]) -> str:
    """Return a key of LANGUAGES: the one that the address ends with, or the best available by Accept-Language.

    TorchServe passes the handler what follows the version in the address of a prediction, as `url_path`.
    """
    if (address := headers.get("url_path", "")) in LANGUAGES:
        return address
    weights = qualities(headers.get("accept-language", ""))
    for tag in sorted(weights, key=lambda tag: -weights[tag]):  # the sort is stable: ties keep their order
        if weights[tag] > 0 and (available := _available(tag)):
            return available
        if weights[tag] > 0 and tag == "*":
            break
    return DEFAULT


def _available(tag: str) -> str | None:
    """Return the language that a tag in lower case, such as zh-hant-tw, stands for; regions matter for Chinese only."""
    primary, *subtags = tag.split("-")
    if primary == "zh":
        return "zh-Hant" if _TRADITIONAL & {*subtags} and "hans" not in subtags else "zh-Hans"
    return primary if primary in LANGUAGES else None
