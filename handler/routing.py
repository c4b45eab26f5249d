"""Route: detect a request's protocol, or that it asks for the model card, the page, the API description or health.

images as bytes       native (and the tutorials')      protocols/native.py
{"instances": […]}    KServe v1, TensorFlow Serving    protocols/kserve_v1.py
{"inputs": […]}       Open Inference Protocol (v2)     protocols/open_inference.py
{"inputs": "…"}       Hugging Face, also ["…"]         protocols/hugging_face.py
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler import payload, protocols, reply
from handler.errors import ErrorCode, RequestError
from handler.messages import quote_for_message
from handler.page import Page
from handler.payload import Payload, Row, Uploads, wants_explanations
from handler.protocols import ParsedRequest, ProtocolAdapter, hugging_face, open_inference
from handler.ranking import ClassIndex
from handler.reply import Reply
from handler.request import Request
from handler.settings import Settings

_DRAINING = RequestError(ErrorCode.DRAINING, "this version is shutting down; send the request again in a moment")


@dataclass(frozen=True)
class Router:
    """Route the requests of one loaded model."""

    page: Page
    classes: ClassIndex
    settings: Settings
    card: Mapping[str, Any]
    """The model card that TorchServe's management API returns."""
    readable_card: Path
    """The model card for people, Markdown in UTF-8."""
    draining: Callable[[], bool]

    def route(self, row: Row) -> ParsedRequest | Reply:
        """Return the parsed request, or the reply if no image has to be scored."""
        if _asks_for_card(row):
            return reply.document(self.card)
        form = self.page.protocol(row.headers)
        try:
            row = payload.decompress(row, self.settings.max_request_bytes)
        except RequestError as error:
            return (form or fallback_protocol(row.entries, row.headers)).refuse(error)
        fallback = form or fallback_protocol(row.entries, row.headers)
        if self.draining():
            return reply.draining_response(fallback.refuse(_DRAINING), row.headers)
        try:
            content = payload.read(row)
        except RequestError as error:
            # A form without a file is rejected on the page.
            asks_for_document = error.code is ErrorCode.NO_IMAGE and form is None
            return (self._negotiate(row) if asks_for_document else None) or fallback.refuse(error)
        protocol = fallback
        try:
            protocol = form or detect_protocol(content, row.headers)
            return ParsedRequest(protocol, self._read(protocol, content, row))
        except RequestError as error:
            return protocol.refuse(error)

    def refuse(self, row: Row, parsed: ParsedRequest | None, error: RequestError) -> Reply:
        """Return the error response for a whole request, in its protocol or, if that is unknown, the fallback."""
        if parsed:
            return parsed.protocol.refuse(error)
        form = self.page.protocol(row.headers)
        return (form or fallback_protocol(row.entries, row.headers)).refuse(error)

    def _read(self, protocol: ProtocolAdapter, content: Payload, row: Row) -> Request:
        if wants_explanations(row.headers):
            return protocol.explain(content, self.settings, self.classes)
        return protocol.read(content, self.settings)

    def _negotiate(self, row: Row) -> Reply | None:
        if row.headers.get("url_path") == reply.MODEL_CARD:  # browsers show plain text, and would save Markdown
            return Reply(self.readable_card.read_bytes(), content_type="text/plain; charset=utf-8")
        accepted = row.headers.get("accept", "")
        if open_inference.METADATA in accepted:
            return open_inference.metadata(self.page.model)
        if reply.CARD in accepted:
            return Reply(reply.encode(self.card), content_type=reply.CARD)
        return reply.negotiate(row.headers) or self.page.negotiate(row.headers)


def fallback_protocol(entries: Mapping[str, object], headers: Mapping[str, str]) -> ProtocolAdapter:
    """Guess the protocol of a request that cannot be read, for its error response, from its route and its content.

    headers: by lower-case name. TorchServe adds `url_path` on /predictions, and on KServe's routes only `explain`.
    """
    name = hugging_face.FORMAT
    # The entry `format` may also be a file, so compare its value.
    if headers.get("x-format") == name or entries.get("format") in (name, name.encode()):
        return protocols.HUGGING_FACE
    if _on_kserve_route(headers):
        return protocols.KSERVE_V1
    body = entries.get("body")
    # Truncated `{"inputs": …`: v2 and Hugging Face have the same error responses.
    has_inputs = isinstance(body, bytes | bytearray) and body[:1] == b"{" and b'"inputs"' in body[:4096]
    return protocols.OPEN_INFERENCE if has_inputs else protocols.NATIVE


def detect_protocol(content: Payload, headers: Mapping[str, str]) -> ProtocolAdapter:
    """Return the protocol of a payload.

    Raises:
        RequestError: bad_json, if a document matches no protocol.
    """
    if isinstance(content, Uploads):
        return protocols.HUGGING_FACE if "format" in content.options else protocols.NATIVE
    match content.content:
        case {"instances": _}:
            protocol = protocols.KSERVE_V1 if _on_kserve_route(headers) else protocols.NATIVE_INSTANCES
        case {"inputs": [str(), *_]}:
            protocol = protocols.HUGGING_FACE
        case {"inputs": list()}:
            return protocols.OPEN_INFERENCE
        case {"inputs": _}:
            protocol = protocols.HUGGING_FACE
        case _:
            raise RequestError(
                ErrorCode.BAD_JSON,
                'JSON must be {"instances": [{"b64": "<base64 of an image>"}, …]}, {"inputs": "<base64 of an image>"}, '
                "or an inference request of the Open Inference Protocol (v2), not "
                f"{quote_for_message(content.content)}",
            )
    if content.appended:
        raise RequestError(
            ErrorCode.BAD_JSON, "binary data follows the JSON; only the Open Inference Protocol allows it, for tensors"
        )
    return protocol


def _on_kserve_route(headers: Mapping[str, str]) -> bool:
    return "explain" in headers and "url_path" not in headers


def _asks_for_card(row: Row) -> bool:
    # TorchServe's own requests have an empty row and no content. If a client sends the header with an upload or a form,
    # it gets a prediction or an error as usual.
    empty = not row.entries and "content-type" not in row.headers
    return empty and row.headers.get("describe", "").lower() == "true"
