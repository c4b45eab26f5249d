"""The protocols that callers of image classifiers speak; routing.py decides which one a request is in.

Each module reads a payload into a Request, which knows how to answer, and has the protocol's way to refuse one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from handler.failures import Code, Failure
from handler.labels import ClassIndex
from handler.payload import Payload
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
