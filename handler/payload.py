"""Read: convert a row of TorchServe's batch and its headers to uploads or a JSON document, and options.

TorchServe passes a raw body as `{"body": bytearray}`, a form as one entry per part (repeated_parts.py has the keys of
those that share a name), a gRPC call's `input` as its entries, and JSON either parsed or as bytes, depending on its
settings. On some routes, query parameters are further entries. All of this is untrusted input.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from handler import content_encoding
from handler.errors import ErrorCode, RequestError
from handler.messages import HOW_TO_SEND, is_url, quote_for_message
from handler.repeated_parts import part_name

PREDICTING = ("top_k", "min_probability", "logits", "embedding", "embedding_norm", "format")
EXPLAINING = ("top_k", "min_probability", "target", "overlays")
OPTIONS = tuple(dict.fromkeys((*PREDICTING, *EXPLAINING)))
OPTION_HEADERS = {f"x-{option.replace('_', '-')}": option for option in OPTIONS}

# Header of a v2 request with binary data: the length in bytes of the JSON at the body's start.
_JSON_LENGTH = "inference-header-content-length"

# TorchServe's own query parameter of /invocations, model_name, is passed to the handler like the client's.
_RESERVED = (*OPTIONS, "model_name")

# Bytes to allow per form part for headers that TorchServe does not pass on. .NET sends a file name twice, in base64 and
# percent-encoded: a path of 4096 bytes, the longest that Linux has, takes 18 kB.
_PART_SLACK = 32_768

# Text that form libraries and browsers add to a form on their own, by name in lower case.
_FORM_LIBRARY_FIELDS = frozenset(
    (
        *("csrf_token", "csrf-token", "_csrf", "_csrf_token", "csrfmiddlewaretoken", "authenticity_token", "_token"),
        *("__requestverificationtoken", "__viewstate", "__viewstategenerator", "__eventvalidation", "_wpnonce"),
        *("_wp_http_referer", "form_id", "form_build_id", "form_token", "submit", "commit", "utf8", "_method"),
        *("_charset_", "max_file_size", "g-recaptcha-response", "h-captcha-response", "cf-turnstile-response"),
    )
)


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
    """Uploads by the key of their form part or gRPC entry, or `body` for a raw body; accept is the header's value.

    repeated_parts.part_name() returns the name of a key; several parts may have the same one.
    """

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


def decompress(row: Row, limit: int) -> Row:
    """Return the row with its body as it was before the client compressed it. limit: its largest size in bytes.

    Raises:
        RequestError: bad_encoding, body_too_large.
    """
    encoding = row.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return row
    if _media_type(row.headers) == "multipart/form-data":  # TorchServe has already taken the compressed bytes apart
        raise RequestError(
            ErrorCode.BAD_ENCODING,
            "a form must not be compressed: send it without Content-Encoding, or send the image or JSON as the body",
        )
    body = row.entries.get("body")
    if not isinstance(body, bytes | bytearray) or not body:
        return row
    return replace(row, entries={**row.entries, "body": content_encoding.decode(body, encoding, limit)})


def read(request: Row) -> Payload:
    """Read one row of a batch. Options from headers, form fields and the query are returned as sent, by name.

    Raises:
        RequestError: no_image, bad_form, repeated_part, unknown_field, bad_json.
    """
    row, raw_headers, headers = request.entries, request.raw_headers, request.headers
    media_type = _media_type(headers)
    if media_type == "application/x-www-form-urlencoded":
        _reject_urlencoded(headers)
    is_form = media_type.startswith("multipart/")
    if is_form:
        _check_form(row, headers, raw_headers)
    options: dict[str, object] = {option: headers[name] for name, option in OPTION_HEADERS.items() if name in headers}
    # A part with a content type is a file, even if it has an option's name.
    parts = {
        key: value for key, value in row.items() if part_name(key) not in _RESERVED or _part_type(raw_headers, key)
    }
    fields = [key for key in row if key not in parts]
    if "explain" in headers:  # TorchServe adds it on the routes without a query, whose options look like a form's
        _reject_repeated([part_name(key) for key in fields])
    options |= {part_name(key): _text(row[key]) for key in fields if part_name(key) in OPTIONS}
    if is_form:
        parts = _without_extra_fields(parts, raw_headers)
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
    if isinstance(body, str):
        return body[:64].lstrip("\ufeff \t\r\n")[:1] in ("{", "[")
    if isinstance(body, bytes | bytearray):  # in UTF-8, or in what Windows' tools write: UTF-16 with a byte order mark
        encoding = "utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return _is_json(bytes(body[:64]).decode(encoding, "replace"))
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


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_form(row: Mapping[str, object], headers: Mapping[str, str], raw_headers: Mapping[str, object]) -> None:
    media_type = _media_type(headers)
    if media_type != "multipart/form-data":
        raise RequestError(ErrorCode.BAD_FORM, f"{media_type[:40]!a} is not multipart/form-data; {HOW_TO_SEND}")
    if _part_type(raw_headers, "body").lower() == media_type or "boundary=" not in headers["content-type"]:
        raise RequestError(
            ErrorCode.BAD_FORM, f"the form's Content-Type has no boundary=… in lower case; {HOW_TO_SEND}"
        )
    if not row:
        raise RequestError(
            ErrorCode.BAD_FORM,
            "the form has no complete part: it is empty, it is cut short, its last boundary is missing, or it does not "
            f"begin with a boundary; {HOW_TO_SEND}",
        )
    # TorchServe silently drops a part that does not end. Only a large one can be missed: part headers are unknown.
    arrived = sum(len(key) + len(_bytes(value)) + _PART_SLACK for key, value in row.items())
    length = _length(headers)
    if length > arrived:
        raise RequestError(
            ErrorCode.BAD_FORM,
            f"only {len(row)} part(s) of the form are complete, and its {length} bytes are more than these have: it is "
            "cut short, or its last boundary is missing",
        )


def _reject_repeated(names: list[str]) -> None:
    """Reject an option that a form has more than once."""
    for name, count in Counter(names).items():
        if count > 1:
            raise RequestError(
                ErrorCode.REPEATED_PART,
                f"{name} was sent {count} times; send it once (several targets: separated by commas)",
            )


def _without_extra_fields(parts: Mapping[str, object], headers: Mapping[str, object]) -> dict[str, object]:
    """Return the parts without the text that form libraries and browsers add on their own.

    This is also text under a file's name: Rails adds an empty field, FilePond the JSON of an object.
    """
    files = {part_name(key) for key in parts if _part_type(headers, key)}

    def is_extra(key: str, value: object) -> bool:
        name, content = part_name(key), _bytes(value)
        beside_file = name in files and (not content or content[:1] == b"{")
        return not _part_type(headers, key) and (name.lower() in _FORM_LIBRARY_FIELDS or beside_file)

    return {key: value for key, value in parts.items() if not is_extra(key, value)}


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


def _reject_others(others: Mapping[str, object], valid: Collection[str]) -> None:
    """Reject unknown entries beside a body: in an HTTP request these are query parameters.

    A gRPC call without JSON is not checked, because its other entries may be images. valid: the route's options.
    """
    for key in others:
        raise RequestError(
            ErrorCode.UNKNOWN_FIELD,
            f"unknown parameter {quote_for_message(part_name(key))}; valid parameters: {', '.join(valid)}",
        )


def _reject_text_fields(parts: Mapping[str, object], headers: Mapping[str, object], valid: Collection[str]) -> None:
    """Reject short text in place of an image: it is a misspelt option, or the @ of curl is missing."""
    for key, value in parts.items():
        content = _bytes(value)
        if _part_type(headers, key) or not 0 < len(content) <= 1024:
            continue
        text = content.decode("ascii", "replace")
        if content.isascii() and text.isprintable():
            problem = "a URL, and URLs are not fetched" if is_url(text) else "text, not a file"
            raise RequestError(
                ErrorCode.UNKNOWN_FIELD,
                f"the field {quote_for_message(part_name(key))} contains {problem}; send images as files "
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
