"""Read: convert a row of TorchServe's batch and its headers to uploads or a JSON document, and options.

TorchServe passes a raw body as `{"body": bytearray}`, a form as one entry per part (the last of those that share a
name), a gRPC call's `input` as its entries, and JSON either parsed or as bytes, depending on its settings. On some
routes, query parameters are further entries. All of this is untrusted input.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from handler.errors import ErrorCode, RequestError
from handler.messages import HOW_TO_SEND, quote_for_message

PREDICTING = ("top_k", "min_probability", "format")
EXPLAINING = ("top_k", "min_probability", "target", "overlays")
OPTIONS = tuple(dict.fromkeys((*PREDICTING, *EXPLAINING)))
OPTION_HEADERS = {f"x-{option.replace('_', '-')}": option for option in OPTIONS}

# Header of a v2 request with binary data: the length in bytes of the JSON at the body's start.
_JSON_LENGTH = "inference-header-content-length"

# TorchServe's own query parameter of /invocations, model_name, is passed to the handler like the client's.
_RESERVED = (*OPTIONS, "model_name")

# Bytes to allow per form part for headers that TorchServe does not pass on, such as its file name.
_FILE_PART_SLACK = 1024
_TEXT_PART_SLACK = 256


@dataclass(frozen=True)
class Row:
    """One request as TorchServe passes it to the handler."""

    entries: Mapping[str, object]
    """Raw body, form parts and query parameters by name."""
    raw_headers: Mapping[str, object]
    """Headers as the client spelled them, and for each form part a mapping with the part's own headers."""
    headers: Mapping[str, str]
    """The request's own headers by lower-case name."""
    request_id: str | None

    @classmethod
    def make(
        cls, entries: Mapping[str, object], raw_headers: Mapping[str, object], request_id: str | None = None
    ) -> "Row":
        """Create a row and normalize its headers."""
        return cls(entries, raw_headers, normalize_headers(raw_headers), request_id)


@dataclass(frozen=True)
class Uploads:
    """Uploads by the name of their form part or gRPC entry, or `body` for a raw body; accept is the header's value."""

    parts: Mapping[str, bytes]
    options: Mapping[str, object]
    accept: str = ""


@dataclass(frozen=True)
class Document:
    """A JSON body, and the binary data after it if the client sent the header of its length."""

    content: object
    options: Mapping[str, object]
    appended: bytes = b""


Payload = Uploads | Document


def normalize_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """Return the request's headers by lower-case name, without the mappings that TorchServe adds for form parts."""
    own = {name: value for name, value in headers.items() if isinstance(value, str)}
    # TorchServe adds headers in lower case. They take precedence over a client's header in another case.
    return {name.lower(): value for name, value in own.items()} | {n: v for n, v in own.items() if n.islower()}


def wants_explanations(headers: Mapping[str, str]) -> bool:
    """Return whether the request came to /explanations or :explain, for which TorchServe sets a header.

    On other routes, such as /invocations, clients may set the header themselves.
    """
    return headers.get("explain", "").lower() == "true"


def read(request: Row) -> Payload:
    """Read one row of a batch. Options from headers, form fields and the query are returned as sent, by name.

    Raises:
        RequestError: no_image, bad_form, repeated_part, unknown_field, bad_json.
    """
    row, raw_headers, headers = request.entries, request.raw_headers, request.headers
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/x-www-form-urlencoded":
        _reject_urlencoded(headers)
    is_form = media_type.startswith("multipart/")
    if is_form:
        _check_form(row, headers, raw_headers)
    options: dict[str, object] = {option: headers[name] for name, option in OPTION_HEADERS.items() if name in headers}
    # A part with a content type is a file, even if it has an option's name.
    parts = {name: value for name, value in row.items() if name not in _RESERVED or _part_type(raw_headers, name)}
    options |= {name: _text(value) for name, value in row.items() if name in OPTIONS and name not in parts}
    body = None if is_form else _body(parts)
    others = {name: value for name, value in parts.items() if name != body}
    is_json = body is not None and (
        media_type == "application/json" or _JSON_LENGTH in headers or _is_json(parts[body])
    )
    valid = EXPLAINING if wants_explanations(headers) else PREDICTING
    if is_json or (headers and not is_form):
        _reject_others(others, valid)
    _reject_text_fields(others, raw_headers, valid)
    if body is not None and is_json:
        return _read_json(parts[body], options, headers.get(_JSON_LENGTH))
    contents = {name: _bytes(value) for name, value in parts.items()}
    if not any(contents.values()):
        raise RequestError(ErrorCode.NO_IMAGE, f"no image was sent; {HOW_TO_SEND}")
    return Uploads(contents, options, headers.get("accept", ""))


def _body(parts: Mapping[str, object]) -> str | None:
    """Return the name of the entry with the whole request: a raw body, or a gRPC call's only entry."""
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
        raise RequestError(
            ErrorCode.BAD_JSON,
            "Inference-Header-Content-Length must be the length in bytes of the JSON at the start of the body",
        )
    try:
        return Document(json.loads(bytes(body[:end])), options, bytes(body[end:]))
    except (ValueError, RecursionError) as error:
        raise RequestError(
            ErrorCode.BAD_JSON, "the body has the content type of JSON, or begins like JSON, but it is not valid JSON"
        ) from error


def _reject_urlencoded(headers: Mapping[str, str]) -> None:
    if headers.get("content-length", "0") == "0":
        raise RequestError(ErrorCode.NO_IMAGE, f"no image was sent; {HOW_TO_SEND}")
    raise RequestError(
        ErrorCode.BAD_FORM,
        "the body has the content type of an urlencoded form (the default of curl -d and --data-binary), "
        f"which cannot contain an image; {HOW_TO_SEND}",
    )


def _check_form(row: Mapping[str, object], headers: Mapping[str, str], raw_headers: Mapping[str, object]) -> None:
    match = re.search(r'boundary="?([^";]+)', headers.get("content-type", ""), re.IGNORECASE)
    if match is None:
        raise RequestError(ErrorCode.BAD_FORM, f"the form's Content-Type has no boundary; {HOW_TO_SEND}")
    if not row:
        raise RequestError(
            ErrorCode.BAD_FORM, f"the form has no complete part: it is empty or truncated; {HOW_TO_SEND}"
        )
    unexplained = _length(headers) - _form_length(row, raw_headers, len(match[1]))
    if unexplained > 0:
        raise RequestError(
            ErrorCode.REPEATED_PART,
            "the form is longer than its parts: if several parts have the same name, only the last one arrives; "
            "give each image a different name (curl -F a=@one.jpg -F b=@two.jpg)",
        )


def _form_length(row: Mapping[str, object], headers: Mapping[str, object], boundary: int) -> int:
    """Return the maximum length in bytes of a form of these parts (RFC 7578 framing, plus slack)."""
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


def _reject_others(others: Mapping[str, object], valid: Collection[str]) -> None:
    """Reject unknown entries beside a body: in an HTTP request these are query parameters.

    A gRPC call without JSON is not checked, because its other entries may be images. valid: the route's options.
    """
    for name in others:
        raise RequestError(
            ErrorCode.UNKNOWN_FIELD,
            f"unknown parameter {quote_for_message(name)}; valid parameters: {', '.join(valid)}",
        )


def _reject_text_fields(parts: Mapping[str, object], headers: Mapping[str, object], valid: Collection[str]) -> None:
    """Reject short text in place of an image: it is a misspelt option, or the @ of curl is missing."""
    for name, value in parts.items():
        content = _bytes(value)
        if _part_type(headers, name) or not 0 < len(content) <= 1024:
            continue
        if content.isascii() and content.decode("ascii").isprintable():
            raise RequestError(
                ErrorCode.UNKNOWN_FIELD,
                f"the field {quote_for_message(name)} contains text, not a file; send images as files "
                f"(curl -F file=@photo.jpg, with the @); valid options: {', '.join(valid)}",
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
