"""Read: from a row of TorchServe's batch and its headers to images or a JSON document, and the options beside them.

TorchServe hands over a raw body as `{"body": bytearray}`, a form as one entry a part (the last of a repeated name),
a gRPC call's `input` as its entries, JSON as parsed or as bytes depending on its settings, and query parameters, on
the routes where it does, as further entries. Nothing here trusts any of it.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from handler.failures import Code, Failure
from handler.request import HOW_TO_SEND, listed, quoted

PREDICTING = ("top_k", "min_probability", "format")
EXPLAINING = ("top_k", "min_probability", "target", "overlays")
OPTIONS = tuple(dict.fromkeys((*PREDICTING, *EXPLAINING)))
OPTION_HEADERS = {f"x-{option.replace('_', '-')}": option for option in OPTIONS}

# Of a body in the v2 protocol's binary form: how many bytes at its start are the JSON.
_JSON_LENGTH = "inference-header-content-length"

# TorchServe's own query parameter of /invocations, handed over like all others.
_ROUTING = ("model_name",)
_RESERVED = (*OPTIONS, *_ROUTING)

# What the framing of one form part may take beyond what can be computed: its file name and rare headers.
_FILE_PART_SLACK = 1024
_TEXT_PART_SLACK = 256


@dataclass(frozen=True)
class Row:
    """One request as TorchServe hands it over."""

    entries: Mapping[str, object]
    """A raw body, form parts, query parameters, by name."""
    raw_headers: Mapping[str, object]
    """Headers in the client's spelling, and an object for every form part."""
    headers: Mapping[str, str]
    """The headers alone, by lower-case name."""
    request_id: str | None

    @classmethod
    def make(
        cls, entries: Mapping[str, object], raw_headers: Mapping[str, object], request_id: str | None = None
    ) -> "Row":
        """The row with its headers made plain, once for all who read them."""
        return cls(entries, raw_headers, plain_headers(raw_headers), request_id)


@dataclass(frozen=True)
class Images:
    """Encoded images by the name of their form part or gRPC entry; a raw body's name is `body`. accept: the header."""

    parts: Mapping[str, bytes]
    options: Mapping[str, object]
    accept: str = ""


@dataclass(frozen=True)
class Document:
    """A JSON body, and the bytes that followed it where the client said that it is not all."""

    content: object
    options: Mapping[str, object]
    appended: bytes = b""


Payload = Images | Document


def plain_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """Request headers by lower-case name; the objects that TorchServe puts there for form parts are left out."""
    plain = {name: value for name, value in headers.items() if isinstance(value, str)}
    # TorchServe's own are in lower case: a client's of the same name in another case must not come before them.
    return {name.lower(): value for name, value in plain.items()} | {n: v for n, v in plain.items() if n.islower()}


def wants_explanations(headers: Mapping[str, str]) -> bool:
    """Whether a request came to /explanations or :explain, of which TorchServe tells by a header. At addresses where it
    says nothing of it, such as /invocations, a client may set the header itself."""
    return headers.get("explain", "").lower() == "true"


def read(request: Row) -> Payload:
    """Reads one row of a batch; options are as the client wrote them, by name, from headers, fields and query.

    Raises Failure when nothing can be made of it.
    """
    row, headers, plain = request.entries, request.raw_headers, request.headers
    media_type = plain.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/x-www-form-urlencoded":
        _refuse_urlencoded(plain)
    is_form = media_type.startswith("multipart/")
    if is_form:
        _check_form(row, plain, headers)
    options: dict[str, object] = {option: plain[name] for name, option in OPTION_HEADERS.items() if name in plain}
    # A part with a content type is a file, whatever its name.
    parts = {name: value for name, value in row.items() if name not in _RESERVED or _part_type(headers, name)}
    options |= {name: _text(value) for name, value in row.items() if name in OPTIONS and name not in parts}
    body = None if is_form else _body(parts)
    others = {name: value for name, value in parts.items() if name != body}
    is_json = body is not None and (media_type == "application/json" or _JSON_LENGTH in plain or _is_json(parts[body]))
    known = EXPLAINING if wants_explanations(plain) else PREDICTING
    if is_json or (plain and not is_form):
        _refuse_others(others, known)
    _refuse_text_fields(others, headers, known)
    if body is not None and is_json:
        return _read_json(parts[body], options, plain.get(_JSON_LENGTH))
    contents = {name: _bytes(value) for name, value in parts.items()}
    if not any(contents.values()):
        raise Failure(Code.NO_IMAGE, f"no image was sent; {HOW_TO_SEND}")
    return Images(contents, options, plain.get("accept", ""))


def _body(parts: Mapping[str, object]) -> str | None:
    """The entry that holds the whole of a request: a raw body, or the one entry of a gRPC call."""
    return "body" if "body" in parts else next(iter(parts)) if len(parts) == 1 else None


def _is_json(body: object) -> bool:
    if isinstance(body, str | bytes | bytearray):
        return _bytes(body[:64]).lstrip()[:1] in (b"{", b"[")
    return True  # TorchServe has parsed it


def _read_json(body: object, options: Mapping[str, object], json_length: str | None) -> Document:
    if not isinstance(body, bytes | bytearray):
        return Document(body, options)
    end = len(body) if json_length is None else int(json_length) if re.fullmatch(r"[0-9]{1,9}", json_length) else -1
    if not 0 <= end <= len(body):
        raise Failure(
            Code.BAD_JSON,
            "Inference-Header-Content-Length must be the length of the JSON at the body's start, in bytes",
        )
    try:
        return Document(json.loads(bytes(body[:end])), options, bytes(body[end:]))
    except (ValueError, RecursionError) as error:
        raise Failure(
            Code.BAD_JSON, "the body is announced as JSON, or begins like it, but cannot be parsed"
        ) from error


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


def _refuse_others(others: Mapping[str, object], known: Collection[str]) -> None:
    """Beside the body of an HTTP request there are query parameters only, beside JSON nothing but options; a gRPC call,
    which has no headers, may have further images there. known: the options at this address."""
    for name in others:
        raise Failure(Code.UNKNOWN_FIELD, f"there is no parameter {quoted(name)}; there are {listed(known)}")


def _refuse_text_fields(parts: Mapping[str, object], headers: Mapping[str, object], known: Collection[str]) -> None:
    """A short text where an image is due is a misspelt option or a forgotten @, and better told than ignored."""
    for name, value in parts.items():
        content = _bytes(value)
        if _part_type(headers, name) or not 0 < len(content) <= 1024:
            continue
        if content.isascii() and content.decode("ascii").isprintable():
            raise Failure(
                Code.UNKNOWN_FIELD,
                f"the field {quoted(name)} holds text, not a file; images are sent as files "
                f"(curl -F file=@photo.jpg, with the @), options are {listed(known)}",
            )


def _part_type(headers: Mapping[str, object], name: str) -> str:
    entry = headers.get(name)
    content_type = entry.get("content-type") if isinstance(entry, Mapping) else None
    return content_type if isinstance(content_type, str) else ""


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, bytes | bytearray) else b""


def _text(value: object) -> object:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value
