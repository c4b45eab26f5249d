"""What a client asks, whichever protocol it speaks: images, and the options that say how to answer."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from PIL.Image import Image

from handler.cropping import Box
from handler.failures import Code, Failure
from handler.labels import ClassIndex, Prediction
from handler.reply import Reply
from handler.settings import Settings

HOW_TO_SEND = "send the image's bytes (curl -T photo.jpg URL) or a multipart form (curl -F file=@photo.jpg URL)"
MAX_TOP_K = 1000
MAX_TARGETS = 10
MAX_PICTURES = 10
"""Of explanations in one answer: a fifth of a second of a worker. They may still be too large for an answer of 6 MB, as
a picture has up to half a megabyte, in base64 two thirds of one."""
LONGEST = 512  # pixels of the longer side of an explanation's whole picture: as a PNG it takes up to half a megabyte
_LONGEST_TARGETS = 10_000  # characters

# A number as text; float() would take "0_1" and other scripts' digits too.
_NUMBER = re.compile(r"\s*(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?\s*")

Content = bytes | torch.Tensor
"""An encoded image, or one that the client has preprocessed: float32, (3, 224, 224), normalized."""


@dataclass(frozen=True)
class Explanation:
    """Where one class was seen on an image."""

    prediction: Prediction
    bias: float
    """What the class has for a logit without any evidence: the logit is the map's mean, and this."""
    map: Sequence[Sequence[float]]
    """The evidence for the class, or against it, at 7 × 7 places: rows from the top, each from the left."""
    overlay: bytes | None = None
    """A PNG of the crop that the network saw, with the map laid over it."""
    picture: bytes | None = None
    """The same of the whole upright picture, which outside of the crop is dimmed."""


@dataclass(frozen=True)
class Seen:
    """What was seen on one image: its ranked classes; where, if that was asked, and in which part of the upright
    picture, in fractions of its width and height, where there is a picture."""

    predictions: tuple[Prediction, ...]
    explanations: tuple[Explanation, ...] = ()
    crop: Box | None = None
    shown: Image | None = None
    """The upright picture, made smaller, if the answer shows it."""

    def recognized(self, min_probability: float) -> bool:
        """Whether the best class passes the threshold."""
        return self.predictions[0].probability >= min_probability


Outcome = Seen | Failure
"""What became of one image, or why nothing did."""


@dataclass(frozen=True)
class Upload:
    """One image of a request, or why there is none; its form part's name where it has one."""

    content: Content | Failure
    name: str | None = None


@dataclass(frozen=True)
class Options:
    """What a request may choose: top_k in 1..1000, min_probability in 0..1."""

    top_k: int
    min_probability: float

    @classmethod
    def read(cls, chosen: Mapping[str, object], settings: Settings) -> "Options":
        """The two options as numbers or text, by name; what is absent or null is as the settings say.

        Raises Failure bad_option.
        """
        top_k, min_probability = chosen.get("top_k"), chosen.get("min_probability")
        return cls(
            top_k=settings.top_k if top_k is None else read_count("top_k", top_k),
            min_probability=settings.min_probability if min_probability is None else _read_share(min_probability),
        )


class Overlays(StrEnum):
    """The pictures of an explanation: of the crop that the network saw, of the whole picture."""

    CROP = "crop"
    PICTURE = "picture"
    BOTH = "both"
    NONE = "none"


@dataclass(frozen=True)
class Why:
    """What explanations a request wants: of which classes, by position (none named: the best one), with which pictures.

    png: one of the pictures is the whole answer.
    """

    targets: tuple[int, ...] = ()
    overlays: Overlays = Overlays.BOTH
    png: bool = False

    @classmethod
    def read(cls, chosen: Mapping[str, object], classes: ClassIndex, *, png: bool = False) -> "Why":
        """The two options as they came, by name. Raises Failure bad_option."""
        target, overlays = chosen.get("target"), chosen.get("overlays")
        return cls(
            targets=() if target is None else _read_targets(target, classes),
            overlays=(Overlays.CROP if png else Overlays.BOTH) if overlays is None else _read_overlays(overlays, png),
            png=png,
        )

    @property
    def shown(self) -> int | None:
        """Pixels of the longer side of the whole picture, where it is one of the pictures."""
        return LONGEST if self.overlays in (Overlays.PICTURE, Overlays.BOTH) else None

    @property
    def pictures(self) -> int:
        """How many there are of one image."""
        if self.png or self.overlays is Overlays.NONE:
            return int(self.png)
        return max(1, len(self.targets)) * (2 if self.overlays is Overlays.BOTH else 1)


class Request(Protocol):
    """One request in some protocol: what to look at, and how to tell what was seen."""

    @property
    def uploads(self) -> Sequence[Upload]:
        """The images in the order sent."""

    @property
    def top_k(self) -> int:
        """How many classes of each image the answer needs."""

    @property
    def min_probability(self) -> float:
        """From which probability of the best class on an image counts as recognized."""

    @property
    def why(self) -> Why | None:
        """The explanations wanted, if any."""

    @property
    def shown(self) -> int | None:
        """Pixels of the longer side of the upright pictures that the answer shows, if it does."""

    def answer(self, outcomes: Sequence[Outcome], model: Mapping[str, str]) -> Reply:
        """The answer, from one outcome an upload and the model's name, version, weights and precision.

        Raises Failure where one image's failure is that of the whole request.
        """


def read_count(name: str, value: object) -> int:
    """An option that counts classes, 1..1000, as a number or as text. Raises Failure bad_option."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TOP_K:
        raise Failure(Code.BAD_OPTION, f"{name} must be a whole number from 1 to {MAX_TOP_K}, not {quoted(value)}")
    return value


def _read_share(value: object) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise Failure(Code.BAD_OPTION, f"min_probability must be a number from 0 to 1, not {quoted(value)}")
    return float(value)


def _read_overlays(value: object, png: bool) -> Overlays:
    allowed = [Overlays.CROP, Overlays.PICTURE] if png else list(Overlays)
    if value not in allowed:
        where = " for a PNG" if png else ""
        raise Failure(Code.BAD_OPTION, f"overlays must be one of {listed(allowed)}{where}, not {quoted(value)}")
    return Overlays(str(value))


def _read_targets(value: object, classes: ClassIndex) -> tuple[int, ...]:
    """One class or several: a number, text (with commas between several), or a list of them."""
    words = value if isinstance(value, list) else _split(value, classes) if isinstance(value, str) else [value]
    if not 1 <= len(words) <= MAX_TARGETS:
        raise Failure(Code.BAD_OPTION, f"target may be 1 to {MAX_TARGETS} classes, not {len(words)}")
    return tuple(_read_target(word, classes) for word in words)


def _split(text: str, classes: ClassIndex) -> list[str]:
    if len(text) > _LONGEST_TARGETS:
        raise Failure(Code.BAD_OPTION, f"target is {len(text)} characters long; name at most {MAX_TARGETS} classes")
    # A name may have a comma in itself.
    return [text] if classes.find(text.strip()) else text.split(",")


def _read_target(value: object, classes: ClassIndex) -> int:
    found = _find(value, classes)
    if len(found) == 1:
        return found[0]
    if found:
        ids = listed([ascii(classes.ids[position])[1:-1] for position in found[:MAX_TARGETS]])
        raise Failure(Code.BAD_OPTION, f"target {quoted(value)} is the name of several classes; give an id: {ids}")
    raise Failure(
        Code.BAD_OPTION,
        f"target {quoted(value)} is no class of this model; give an id, a position from 0 to {len(classes) - 1}, or "
        "a name",
    )


def _find(value: object, classes: ClassIndex) -> Sequence[int]:
    if isinstance(value, str) and len(value) <= _LONGEST_TARGETS:
        return classes.find(value.strip())
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(classes):
        return [value]
    return []


def read_parameters(parameters: object, chosen: Mapping[str, object], known: Collection[str]) -> dict[str, object]:
    """JSON `parameters` over the options that came beside the body; none is passed over in silence.

    Raises Failure: bad_json where parameters are no object, bad_option for one that there is not.
    """
    if not isinstance(parameters, Mapping | None):
        raise Failure(Code.BAD_JSON, 'JSON "parameters" must be an object such as {"top_k": 3}')
    together = {**chosen, **(parameters or {})}
    for name in together:
        if name not in known:
            raise Failure(Code.BAD_OPTION, f"there is no parameter {quoted(name)} here; there are {listed(known)}")
    return together


def read_document_parameters(
    document: Mapping[str, object], chosen: Mapping[str, object], known: Collection[str]
) -> dict[str, object]:
    """The `parameters` of a JSON request, as read_parameters has them; options beside them are told of, too."""
    if misplaced := next((name for name in known if name in document), None):
        raise Failure(
            Code.BAD_OPTION, f'{misplaced} must stand in "parameters": {{"parameters": {{"{misplaced}": …}}}}'
        )
    return read_parameters(document.get("parameters"), chosen, known)


def check_count(count: int, settings: Settings) -> None:
    """Before anything is decoded: ten megabytes of JSON can hold millions of instances."""
    if count > settings.max_images:
        raise Failure(
            Code.TOO_MANY_IMAGES, f"{count} images in one request; send at most {settings.max_images} at a time"
        )


def check_pictures(uploads: Sequence[Upload], why: Why) -> None:
    """Before anything is decoded: they are almost all of what explanations cost. Of tensors there are none."""
    images = sum(isinstance(upload.content, bytes) for upload in uploads)
    if images * why.pictures > MAX_PICTURES:
        raise Failure(
            Code.ANSWER_TOO_LARGE,
            f"{images * why.pictures} pictures in one answer; ask for at most {MAX_PICTURES}: send fewer images, name "
            "fewer targets, or choose the overlays crop, picture or none (both are two pictures of each)",
        )


def listed(names: Collection[str]) -> str:
    """Names for a sentence: "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def quoted(value: object) -> str:
    """A client's words inside a message: escaped to ASCII, and short however long they were."""
    match value:
        case str():
            return ascii(value[:40]) + ("…" if len(value) > 40 else "")
        case list():
            return "a list"
        case Mapping():
            return "an object"
    return ascii(value)[:80]
