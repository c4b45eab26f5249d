"""The supported protocols; routing.py detects which one a request uses.

Each module reads a payload into a Request, which builds the answer. Functions for the error response are in native.py
and kserve_v1.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from handler.errors import ErrorCode, RequestError
from handler.payload import Payload
from handler.protocols import hugging_face, kserve_v1, native, open_inference
from handler.ranking import ClassIndex
from handler.reply import Reply
from handler.request import Request
from handler.settings import Settings


def _has_no_explanations(payload: Payload, settings: Settings, classes: ClassIndex) -> Request:
    raise RequestError(
        ErrorCode.BAD_OPTION,
        "this protocol has no explanations; send the image's bytes, a multipart form, or "
        '{"instances": [{"b64": "<base64 of an image>"}, …]}',
    )


@dataclass(frozen=True)
class ProtocolAdapter:
    """The functions of one protocol.

    read, and explain for explanations, parse a payload and raise RequestError for an invalid one. error_reply builds
    the error response of a whole request.
    """

    name: str
    read: Callable[[Any, Settings], Request]
    error_reply: Callable[[RequestError], Reply]
    explain: Callable[[Any, Settings, ClassIndex], Request] = _has_no_explanations

    def refuse(self, error: RequestError) -> Reply:
        """Return the error response of a whole request."""
        return replace(self.error_reply(error), protocol=self.name, code=error.code)


@dataclass(frozen=True)
class ParsedRequest:
    """A request and its protocol."""

    protocol: ProtocolAdapter
    request: Request


NATIVE = ProtocolAdapter("native", native.read, native.refuse, native.explain)
KSERVE_V1 = ProtocolAdapter("kserve_v1", kserve_v1.read, kserve_v1.refuse, kserve_v1.read)
# `instances` sent to /predictions: the answer is KServe's, but errors have the shape of the native protocol.
NATIVE_INSTANCES = ProtocolAdapter("native_json", kserve_v1.read, native.refuse, kserve_v1.read)
# An error is a string in these two, as in KServe v1.
OPEN_INFERENCE = ProtocolAdapter("open_inference", open_inference.read, kserve_v1.refuse)
HUGGING_FACE = ProtocolAdapter("hugging_face", hugging_face.read, kserve_v1.refuse)
