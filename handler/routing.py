"""Route: which protocol a request speaks, or what else it asks for: the model card, a page, the description, health.

images as bytes              ours and the tutorials'         protocols/native.py
{"instances": […]}           KServe v1, TensorFlow Serving   protocols/kserve_v1.py
{"inputs": […]}              Open Inference Protocol (v2)    protocols/open_inference.py
{"inputs": "…"}              Hugging Face                    protocols/hugging_face.py
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from handler import payload, protocols, reply
from handler.failures import Code, Failure
from handler.labels import ClassIndex
from handler.page import Page
from handler.payload import Images, Payload, Row, wants_explanations
from handler.protocols import Asked, Protocol, hugging_face
from handler.reply import Reply
from handler.request import Request
from handler.settings import Settings

_DRAINING = Failure(Code.DRAINING, "the service is about to stop; send the request again in a moment")


@dataclass(frozen=True)
class Router:
    """Decides once, for every request of one loaded model, what it asks for."""

    page: Page
    classes: ClassIndex
    settings: Settings
    card: Mapping[str, Any]
    """The model card, as TorchServe's management API shows it."""
    draining: Callable[[], bool]

    def route(self, row: Row) -> Asked | Reply:
        """What is asked about which images, or the reply where that needs no network."""
        if _asks_for_card(row):
            return reply.document(self.card)
        fallback = self._fallback(row)
        if self.draining():
            return reply.turned_away(fallback.refuse(_DRAINING), row.headers)
        try:
            received = payload.read(row)
        except Failure as failure:
            instead = self._without_an_image(row) if failure.code is Code.NO_IMAGE else None
            return instead or fallback.refuse(failure)
        try:
            protocol = self.page.protocol(row.headers) or detect_protocol(received, row.headers)
        except Failure as failure:
            return fallback.refuse(failure)
        try:
            return Asked(protocol, self._read(protocol, received, row))
        except Failure as failure:
            return protocol.refuse(failure)

    def refuse(self, row: Row, asked: Asked | None, failure: Failure) -> Reply:
        """The answer to a request that fails as a whole, in its protocol as far as that is known."""
        return (asked.protocol if asked else self._fallback(row)).refuse(failure)

    def _read(self, protocol: Protocol, received: Payload, row: Row) -> Request:
        if wants_explanations(row.headers):
            return protocol.explain(received, self.settings, self.classes)
        return protocol.read(received, self.settings)

    def _fallback(self, row: Row) -> Protocol:
        return self.page.protocol(row.headers) or fallback_protocol(row.entries, row.headers)

    def _without_an_image(self, row: Row) -> Reply | None:
        if self.page.protocol(row.headers):
            return None  # a form without a file is refused on the page
        return reply.instead_of_an_answer(row.headers) or self.page.instead_of_an_answer(row.headers)


def fallback_protocol(entries: Mapping[str, object], headers: Mapping[str, str]) -> Protocol:
    """The protocol to refuse a request in that cannot be read: by its address, and the words in it.

    headers: by lower-case name. TorchServe adds `url_path` on /predictions, and on KServe's addresses only `explain`.
    """
    named = hugging_face.FORMAT
    # A file may be called `format`, too.
    if headers.get("x-format") == named or entries.get("format") in (named, named.encode()):
        return protocols.HUGGING_FACE
    if _on_kserve_route(headers):
        return protocols.KSERVE_V1
    body = entries.get("body")
    # `{"inputs": …` that breaks off: v2 and Hugging Face refuse alike.
    spoken = isinstance(body, bytes | bytearray) and body[:1] == b"{" and b'"inputs"' in body[:4096]
    return protocols.OPEN_INFERENCE if spoken else protocols.NATIVE


def detect_protocol(received: Payload, headers: Mapping[str, str]) -> Protocol:
    """The protocol of a payload. Raises Failure bad_json for a document in none of them."""
    if isinstance(received, Images):
        return protocols.HUGGING_FACE if "format" in received.options else protocols.NATIVE
    match received.content:
        case {"instances": _}:
            protocol = protocols.KSERVE_V1 if _on_kserve_route(headers) else protocols.NATIVE_INSTANCES
        case {"inputs": list()}:
            return protocols.OPEN_INFERENCE
        case {"inputs": _}:
            protocol = protocols.HUGGING_FACE
        case _:
            raise Failure(
                Code.BAD_JSON,
                'JSON must be {"instances": [{"b64": "<base64 of an image>"}, …]}, {"inputs": "<base64 of an image>"}, '
                "or an inference request of the Open Inference Protocol (v2)",
            )
    if received.appended:
        raise Failure(Code.BAD_JSON, "bytes follow the JSON; only tensors of the Open Inference Protocol may be there")
    return protocol


def _on_kserve_route(headers: Mapping[str, str]) -> bool:
    return "explain" in headers and "url_path" not in headers


def _asks_for_card(row: Row) -> bool:
    # TorchServe asks with an empty row and no content; a client who sends the header still gets a prediction, or is
    # told what is wrong with the form.
    empty = not row.entries and "content-type" not in row.headers
    return empty and row.headers.get("describe", "").lower() == "true"
