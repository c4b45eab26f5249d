"""Text for messages to clients."""

from collections.abc import Collection, Mapping

HOW_TO_SEND = "send the image's bytes (curl -T photo.jpg URL) or a multipart form (curl -F file=@photo.jpg URL)"


def join_words(names: Collection[str]) -> str:
    """Join names for a sentence: "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def quote_for_message(value: object) -> str:
    """Quote a client's value for a message: escaped to ASCII and shortened."""
    match value:
        case str():
            return ascii(value[:40]) + ("…" if len(value) > 40 else "")
        case list():
            return "a list"
        case Mapping():
            return "an object"
    return ascii(value)[:80]
