"""The protocols that callers of image classifiers speak. Which one a request is in is read from what it holds:

    images as bytes              ours and the tutorials'         native.py
    {"instances": […]}           KServe v1, TensorFlow Serving   kserve_v1.py
    {"inputs": […]}              Open Inference Protocol (v2)    open_inference.py
    {"inputs": "…"}              Hugging Face                    hugging_face.py

Each module reads a payload into a Request, which knows how to answer, and has the protocol's way to refuse one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from handler.failures import Code, Failure
from handler.labels import ClassIndex
from handler.payload import Images, Payload
from handler.payload import wants_explanations as wants_explanations
from handler.protocols import hugging_face, kserve_v1, native, open_inference
from handler.reply import Reply
from handler.request import Request
from handler.settings import Settings


def _has_no_explanations(payload: Payload, settings: Settings, classes: ClassIndex) -> Request:
    raise Failure(
        Code.BAD_OPTION,
        "there are no explanations in this protocol; send the image's bytes, a multipart form, or "
        '{"instances": [{"b64": "<base64 of an image>"}, …]}',
    )


@dataclass(frozen=True)
class Protocol:
    """read and, for a request with explanations, explain: raise Failure for one that cannot be understood; refusal: the
    answer to a whole request's failure, in the protocol's shape."""

    name: str
    read: Callable[[Any, Settings], Request]
    refusal: Callable[[Failure], Reply]
    explain: Callable[[Any, Settings, ClassIndex], Request] = _has_no_explanations

    def refuse(self, failure: Failure) -> Reply:
        """The answer to a whole request's failure."""
        return replace(self.refusal(failure), protocol=self.name, code=failure.code)


@dataclass(frozen=True)
class Asked:
    """A request, and the protocol it came in."""

    protocol: Protocol
    request: Request


NATIVE = Protocol("native", native.read, native.refuse, native.explain)
KSERVE_V1 = Protocol("kserve_v1", kserve_v1.read, kserve_v1.refuse, kserve_v1.explain)
# `instances` are also the JSON of our own address, whose failures have one shape whatever was sent.
NATIVE_INSTANCES = Protocol("native_json", kserve_v1.read, native.refuse, kserve_v1.explain)
OPEN_INFERENCE = Protocol("open_inference", open_inference.read, open_inference.refuse)
HUGGING_FACE = Protocol("hugging_face", hugging_face.read, hugging_face.refuse)


def presume(row: Mapping[str, object], headers: Mapping[str, str]) -> Protocol:
    """The protocol to refuse a request in that cannot be read: by its address, and the words in it.

    headers: by lower-case name. TorchServe adds `url_path` on /predictions, and on KServe's addresses only `explain`.
    """
    named = hugging_face.FORMAT
    if headers.get("x-format") == named or row.get("format") in (named, named.encode()):  # a file may be called so, too
        return HUGGING_FACE
    if _on_kserve_route(headers):
        return KSERVE_V1
    body = row.get("body")
    # `{"inputs": …` that breaks off: v2 and Hugging Face refuse alike.
    spoken = isinstance(body, bytes | bytearray) and body[:1] == b"{" and b'"inputs"' in body[:4096]
    return OPEN_INFERENCE if spoken else NATIVE


def recognize(payload: Payload, headers: Mapping[str, str]) -> Protocol:
    """The protocol of a payload. Raises Failure bad_json for a document in none of them."""
    if isinstance(payload, Images):
        return HUGGING_FACE if "format" in payload.options else NATIVE
    match payload.content:
        case {"instances": _}:
            protocol = KSERVE_V1 if _on_kserve_route(headers) else NATIVE_INSTANCES
        case {"inputs": list()}:
            return OPEN_INFERENCE
        case {"inputs": _}:
            protocol = HUGGING_FACE
        case _:
            raise Failure(
                Code.BAD_JSON,
                'JSON must be {"instances": [{"b64": "<base64 of an image>"}, …]}, {"inputs": "<base64 of an image>"}, '
                "or an inference request of the Open Inference Protocol (v2)",
            )
    if payload.appended:
        raise Failure(Code.BAD_JSON, "bytes follow the JSON; only tensors of the Open Inference Protocol may be there")
    return protocol


def _on_kserve_route(headers: Mapping[str, str]) -> bool:
    return "explain" in headers and "url_path" not in headers
