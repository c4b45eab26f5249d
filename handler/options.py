"""Read and validate the options that a client may set, as text, JSON or headers."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from handler.errors import ErrorCode, RequestError
from handler.messages import join_words, quote_for_message
from handler.ranking import ClassIndex
from handler.settings import MAX_TOP_K, Settings

MAX_TARGETS = 10
LONGEST = 512  # pixels; longer side of an explanation's whole image, which as a PNG takes up to half a megabyte
_LONGEST_TARGETS = 10_000  # characters
_Word = TypeVar("_Word", bound=StrEnum)
# A number as text. float() alone would also accept "0_1" and digits of other scripts.
_NUMBER = re.compile(r"\s*(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?\s*")


class Encoding(StrEnum):
    """How an answer contains embeddings: not at all, as numbers, or as base64 of little-endian float32."""

    NONE = "none"
    FLOAT = "float"
    BASE64 = "base64"


class Norm(StrEnum):
    """The length of embeddings: as the network computes them, or 1."""

    RAW = "raw"
    L2 = "l2"


@dataclass(frozen=True)
class Options:
    """Options of a prediction: top_k in 1..1000, min_probability in 0..1, and what else its answer contains.

    min_probability: None for the model's own rule. logits: whether classes have their logits.
    """

    top_k: int
    min_probability: float | None = None
    logits: bool = False
    embedding: Encoding = Encoding.NONE
    embedding_norm: Norm = Norm.RAW

    @classmethod
    def read(cls, values: Mapping[str, object], settings: Settings) -> "Options":
        """Read the options, given by name as numbers or text. Defaults come from the settings.

        Raises:
            RequestError: bad_option.
        """
        top_k, min_probability = values.get("top_k"), values.get("min_probability")
        return cls(
            top_k=settings.top_k if top_k is None else read_count("top_k", top_k),
            min_probability=None if min_probability is None else _read_share(min_probability),
            logits=read_switch("logits", _from_text(values.get("logits"))),
            embedding=read_word("embedding", values.get("embedding"), Encoding.NONE),
            embedding_norm=read_word("embedding_norm", values.get("embedding_norm"), Norm.RAW),
        )


class Overlays(StrEnum):
    """The overlay images of an explanation: of the crop, of the whole image, of both or of none."""

    CROP = "crop"
    PICTURE = "picture"
    BOTH = "both"
    NONE = "none"


@dataclass(frozen=True)
class ExplainOptions:
    """Options of an explanation: the positions of the classes (empty for the best class) and the overlay images.

    png: the response is one overlay image instead of JSON.
    """

    targets: tuple[int, ...] = ()
    overlays: Overlays = Overlays.BOTH
    png: bool = False

    @classmethod
    def read(cls, values: Mapping[str, object], classes: ClassIndex, *, png: bool = False) -> "ExplainOptions":
        """Read the two options, given by name as the client sent them.

        Raises:
            RequestError: bad_option.
        """
        target, overlays = values.get("target"), values.get("overlays")
        return cls(
            targets=() if target is None else _read_targets(target, classes),
            overlays=_read_overlays(overlays, png),
            png=png,
        )

    @property
    def shown(self) -> int | None:
        """Return the longer side in pixels of the whole-image overlay, or None without one."""
        return LONGEST if self.overlays in (Overlays.PICTURE, Overlays.BOTH) else None

    @property
    def images_per_upload(self) -> int:
        """Return how many overlay images the answer has per uploaded image."""
        if self.png or self.overlays is Overlays.NONE:
            return int(self.png)
        return max(1, len(self.targets)) * (2 if self.overlays is Overlays.BOTH else 1)


def whole_number(value: object) -> int | None:
    """Return a JSON number without a fraction as an int, 2.0 too, or None for any other value."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def read_count(name: str, value: object) -> int:
    """Read an option that counts classes: 1..1000, as a number or as text.

    Raises:
        RequestError: bad_option.
    """
    digits = isinstance(value, str) and re.fullmatch(r"\s*([0-9]{1,9})\s*", value)
    count = int(digits[1]) if digits else whole_number(value)
    if count is None or not 1 <= count <= MAX_TOP_K:
        raise RequestError(
            ErrorCode.BAD_OPTION, f"{name} must be a whole number from 1 to {MAX_TOP_K}, not {quote_for_message(value)}"
        )
    return count


def read_switch(name: str, value: object, *, default: bool = False) -> bool:
    """Read an option that is true or false in JSON; None means the default.

    Raises:
        RequestError: bad_option.
    """
    if not isinstance(value, bool | None):
        raise RequestError(ErrorCode.BAD_OPTION, f"{name} must be true or false, not {quote_for_message(value)}")
    return default if value is None else value


def _from_text(value: object) -> object:
    """Return the JSON value of a switch that came in a header, a form or a query."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _read_share(value: object) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise RequestError(
            ErrorCode.BAD_OPTION, f"min_probability must be a number from 0 to 1, not {quote_for_message(value)}"
        )
    return float(value)


def _read_overlays(value: object, png: bool) -> Overlays:
    if png:
        return read_word("overlays", value, Overlays.CROP, [Overlays.CROP, Overlays.PICTURE], " for a PNG")
    return read_word("overlays", value, Overlays.BOTH)


def read_word(name: str, value: object, default: _Word, allowed: Sequence[_Word] = (), where: str = "") -> _Word:
    """Read an option that is one of several words: those of the default's type, or `allowed`, which holds `where`.

    None means the default.

    Raises:
        RequestError: bad_option.
    """
    if value is None:
        return default
    allowed = allowed or list(type(default))
    if value not in allowed:
        raise RequestError(
            ErrorCode.BAD_OPTION,
            f"{name} must be one of {join_words(allowed)}{where}, not {quote_for_message(value)}",
        )
    return type(default)(str(value))


def _read_targets(value: object, classes: ClassIndex) -> tuple[int, ...]:
    """Read one or several classes: a number, text with commas between classes, or a list of both."""
    words = value if isinstance(value, list) else _split(value, classes) if isinstance(value, str) else [value]
    if not 1 <= len(words) <= MAX_TARGETS:
        raise RequestError(ErrorCode.BAD_OPTION, f"target must name 1 to {MAX_TARGETS} classes, not {len(words)}")
    return tuple(_read_target(word, classes) for word in words)


def _split(text: str, classes: ClassIndex) -> list[str]:
    if len(text) > _LONGEST_TARGETS:
        raise RequestError(
            ErrorCode.BAD_OPTION, f"target is {len(text)} characters long; name at most {MAX_TARGETS} classes"
        )
    # A class name may contain a comma.
    return [text] if classes.find(text.strip()) else text.split(",")


def _read_target(value: object, classes: ClassIndex) -> int:
    positions = _find(value, classes)
    if len(positions) == 1:
        return positions[0]
    if positions:
        ids = join_words([ascii(classes.ids[position])[1:-1] for position in positions[:MAX_TARGETS]])
        raise RequestError(
            ErrorCode.BAD_OPTION, f"target {quote_for_message(value)} is the name of several classes; use an id: {ids}"
        )
    raise RequestError(
        ErrorCode.BAD_OPTION,
        f"target {quote_for_message(value)} is not a class of this model; use an id, a position from 0 to "
        f"{len(classes) - 1}, or a name",
    )


def _find(value: object, classes: ClassIndex) -> Sequence[int]:
    if isinstance(value, str) and len(value) <= _LONGEST_TARGETS:
        return classes.find(value.strip())
    position = whole_number(value)
    return [position] if position is not None and 0 <= position < len(classes) else []


def read_parameters(parameters: object, options: Mapping[str, object], valid: Collection[str]) -> dict[str, object]:
    """Merge a document's `parameters` with the options from outside of it; the parameters take precedence.

    Raises:
        RequestError: bad_json if parameters is not an object, bad_option for an unknown parameter.
    """
    if not isinstance(parameters, Mapping | None):
        raise RequestError(
            ErrorCode.BAD_JSON,
            f'JSON "parameters" must be an object such as {{"top_k": 3}}, not {quote_for_message(parameters)}',
        )
    merged = {**options, **(parameters or {})}
    for name in merged:
        if name not in valid:
            raise RequestError(
                ErrorCode.BAD_OPTION,
                f"unknown parameter {quote_for_message(name)}; valid parameters: {', '.join(valid)}",
            )
    return merged


def read_document_parameters(
    document: Mapping[str, object], options: Mapping[str, object], valid: Collection[str]
) -> dict[str, object]:
    """Read the `parameters` of a JSON request as read_parameters() does.

    Raises:
        RequestError: see read_parameters(); also bad_option for an option at the top level of the document.
    """
    if misplaced := next((name for name in valid if name in document), None):
        raise RequestError(
            ErrorCode.BAD_OPTION, f'{misplaced} must be inside "parameters": {{"parameters": {{"{misplaced}": …}}}}'
        )
    return read_parameters(document.get("parameters"), options, valid)
