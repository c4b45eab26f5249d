"""Read: from a row of TorchServe's batch and its headers to the images and options that a client asks about.

TorchServe hands over a raw body as `{"body": bytearray}`, a form as one entry a part (the last of a repeated name),
JSON as parsed or as bytes depending on its settings, and query parameters, on the routes where it does, as further
entries. Nothing here trusts any of it.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from handler.failures import Code, Failure
from handler.settings import Settings

HOW_TO_SEND = "send the image's bytes (curl -T photo.jpg URL) or a multipart form (curl -F file=@photo.jpg URL)"
OPTIONS = ("top_k", "min_probability")
OPTION_HEADERS = {"x-top-k": "top_k", "x-min-probability": "min_probability"}
MAX_TOP_K = 1000

# TorchServe's own query parameter of /invocations, handed over like all others.
_ROUTING = ("model_name",)

# What the framing of one form part may take beyond what can be computed: its file name and rare headers.
_FILE_PART_SLACK = 1024
_TEXT_PART_SLACK = 256


class Shape(Enum):
    """Which answer a request is due."""

    SINGLE = "one image, one object"
    RESULTS = "several parts of a form, a list of results"
    INSTANCES = "JSON instances, a list of predictions"


@dataclass(frozen=True)
class Options:
    """What a request may choose: top_k in 1..1000, min_probability in 0..1."""

    top_k: int
    min_probability: float


@dataclass(frozen=True)
class Upload:
    """One encoded image of a request, or why there is none; its form part's name where it has one."""

    content: bytes | Failure
    name: str | None = None


@dataclass(frozen=True)
class Request:
    """What a client asks: images in the order sent, options, and the shape its answer is due in."""

    uploads: tuple[Upload, ...]
    options: Options
    shape: Shape


def plain_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """Request headers by lower-case name; the objects that TorchServe puts there for form parts are left out."""
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


def read(row: Mapping[str, object], headers: Mapping[str, object], settings: Settings) -> Request:
    """Reads one row of a batch.

    row: TorchServe's entries; headers: as `context.get_all_request_header` gives them.
    Raises Failure when the request as a whole cannot be understood; a single bad image is kept as its Upload.
    """
    plain = plain_headers(headers)
    media_type = plain.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/x-www-form-urlencoded":
        _refuse_urlencoded(plain)
    if media_type.startswith("multipart/"):
        _check_form(row, plain, headers)
    fields = {name: value for name, value in row.items() if name in OPTIONS}
    parts = {name: value for name, value in row.items() if name not in (*OPTIONS, *_ROUTING)}
    chosen: dict[str, object] = {option: plain[name] for name, option in OPTION_HEADERS.items() if name in plain}
    chosen |= {name: _text(value) for name, value in fields.items()}
    raw = not media_type.startswith("multipart/") and "body" in parts
    if raw:
        body = parts.pop("body")
    _refuse_text_fields(parts, headers)
    if not raw:
        return _read_parts(parts, chosen, settings)
    if media_type == "application/json" or _looks_like_json(body):
        return _read_json(body, chosen, settings)
    return _read_parts({"body": body} | parts, chosen, settings)


def _check_count(count: int, settings: Settings) -> None:
    """Before anything is decoded: ten megabytes of JSON can hold millions of instances."""
    if count > settings.max_images:
        raise Failure(
            Code.TOO_MANY_IMAGES, f"{count} images in one request; send at most {settings.max_images} at a time"
        )


def _read_parts(parts: Mapping[str, object], chosen: Mapping[str, object], settings: Settings) -> Request:
    _check_count(len(parts), settings)
    contents = {name: _bytes(value) for name, value in parts.items()}
    if not any(contents.values()):
        raise Failure(Code.NO_IMAGE, f"no image was sent; {HOW_TO_SEND}")
    single = len(contents) == 1
    empty = Failure(Code.NO_IMAGE, "this part is empty; send the image's bytes in it, or leave it out")
    uploads = tuple(Upload(content or empty, None if single else name) for name, content in contents.items())
    return Request(uploads, _options(chosen, settings), Shape.SINGLE if single else Shape.RESULTS)


def _read_json(body: object, chosen: Mapping[str, object], settings: Settings) -> Request:
    document = _parse_json(bytes(body)) if isinstance(body, bytes | bytearray) else body
    instances = document.get("instances") if isinstance(document, Mapping) else None
    if not isinstance(instances, list) or not instances:
        raise Failure(
            Code.BAD_JSON, 'JSON must be {"instances": [{"b64": "<base64 of an image>"}, …]}, one entry an image'
        )
    _check_count(len(instances), settings)
    assert isinstance(document, Mapping)
    parameters = document.get("parameters")
    if not isinstance(parameters, Mapping | None):
        raise Failure(Code.BAD_JSON, 'JSON "parameters" must be an object such as {"top_k": 3}')
    for name in parameters or {}:
        if name not in OPTIONS:
            raise Failure(Code.BAD_OPTION, f"there is no parameter {_quoted(name)}; there are {' and '.join(OPTIONS)}")
    uploads = tuple(Upload(_instance(instance)) for instance in instances)
    return Request(uploads, _options({**chosen, **(parameters or {})}, settings), Shape.INSTANCES)


def _parse_json(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Failure(
            Code.BAD_JSON, "the body is announced as JSON, or begins like it, but cannot be parsed"
        ) from error


def _instance(instance: object) -> bytes | Failure:
    text = instance.get("b64") if isinstance(instance, Mapping) else None
    if not isinstance(text, str):
        return Failure(Code.BAD_JSON, 'an instance must be {"b64": "<base64 of an image>"}')
    try:
        return _from_base64(text) or Failure(Code.NO_IMAGE, "this instance is empty; put an image's base64 in it")
    except (binascii.Error, ValueError):
        return Failure(Code.BAD_BASE64, "this is no base64; send the image's bytes in standard base64, padded with =")


def _from_base64(text: str) -> bytes:
    # Browsers' toDataURL() puts a prefix before the data, and the base64 command breaks its lines.
    if text.startswith("data:"):
        text = text.partition(",")[2]
    return base64.b64decode("".join(text.split()), validate=True)


def _options(chosen: Mapping[str, object], settings: Settings) -> Options:
    top_k, min_probability = chosen.get("top_k"), chosen.get("min_probability")
    return Options(
        top_k=settings.top_k if top_k is None else _top_k(top_k),
        min_probability=settings.min_probability if min_probability is None else _min_probability(min_probability),
    )


def _top_k(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TOP_K:
        raise Failure(Code.BAD_OPTION, f"top_k must be a whole number from 1 to {MAX_TOP_K}, not {_quoted(value)}")
    return value


def _min_probability(value: object) -> float:
    number = value
    if isinstance(number, str):
        try:
            number = float(number)
        except ValueError:
            number = None
    if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number <= 1:
        raise Failure(Code.BAD_OPTION, f"min_probability must be a number from 0 to 1, not {_quoted(value)}")
    return float(number)


def _refuse_urlencoded(headers: Mapping[str, str]) -> None:
    if headers.get("content-length", "0") == "0":
        raise Failure(Code.NO_IMAGE, f"no image was sent; {HOW_TO_SEND}")
    raise Failure(
        Code.BAD_FORM,
        "the body came as an urlencoded form (curl -d and --data-binary announce that unless told otherwise), "
        f"in which an image does not survive; {HOW_TO_SEND}",
    )


def _check_form(row: Mapping[str, object], headers: Mapping[str, str], raw_headers: Mapping[str, object]) -> None:
    match = re.search(r'boundary="?([^";]+)', headers.get("content-type", ""), re.IGNORECASE)
    if match is None:
        raise Failure(Code.BAD_FORM, f"the form's Content-Type names no boundary; {HOW_TO_SEND}")
    if not row:
        raise Failure(Code.BAD_FORM, f"the form holds no complete part: it is empty or was cut short; {HOW_TO_SEND}")
    unexplained = _length(headers) - _form_length(row, raw_headers, len(match[1]))
    if unexplained > 0:
        raise Failure(
            Code.REPEATED_PART,
            "the form is longer than the parts that arrived: of parts under one name only the last is kept; "
            "give every image a name of its own (curl -F a=@one.jpg -F b=@two.jpg)",
        )


def _form_length(row: Mapping[str, object], headers: Mapping[str, object], boundary: int) -> int:
    """The most bytes a form of these parts can take (RFC 7578 framing, plus slack for what is not handed over)."""
    total = len("----\r\n") + boundary
    for name, value in row.items():
        content_type = _part_type(headers, name)
        framing = (
            f'--\r\nContent-Disposition: form-data; name=""; filename=""\r\nContent-Type: {content_type}\r\n\r\n\r\n'
        )
        slack = _FILE_PART_SLACK if content_type else _TEXT_PART_SLACK
        total += boundary + len(framing) + len(name.encode()) + len(_bytes(value)) + slack
    return total


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


def _refuse_text_fields(parts: Mapping[str, object], headers: Mapping[str, object]) -> None:
    """A short text where an image is due is a misspelt option or a forgotten @, and better told than ignored."""
    for name, value in parts.items():
        content = _bytes(value)
        if _part_type(headers, name) or not 0 < len(content) <= 1024:
            continue
        if content.isascii() and content.decode("ascii").isprintable():
            raise Failure(
                Code.UNKNOWN_FIELD,
                f"the field {_quoted(name)} holds text, not a file; images are sent as files "
                f"(curl -F file=@photo.jpg, with the @), options are {' and '.join(OPTIONS)}",
            )


def _part_type(headers: Mapping[str, object], name: str) -> str:
    entry = headers.get(name)
    content_type = entry.get("content-type") if isinstance(entry, Mapping) else None
    return content_type if isinstance(content_type, str) else ""


def _looks_like_json(body: object) -> bool:
    if isinstance(body, str | bytes | bytearray):
        return _bytes(body[:64]).lstrip()[:1] in (b"{", b"[")
    return True


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, bytes | bytearray) else b""


def _text(value: object) -> object:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value


def _quoted(value: object) -> str:
    """A client's words inside a message: escaped to ASCII, and short however long they were."""
    text = ascii(value if not isinstance(value, str) else value[:40])
    return text if len(text) <= 80 else text[:80] + "…"
