"""What requests of all protocols share: images, options and the answer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from handler.errors import ErrorCode, RequestError
from handler.options import Encoding, ExplainOptions, Options
from handler.reply import Reply
from handler.results import ImageResult
from handler.settings import Settings

MAX_OVERLAY_IMAGES = 10
"""Maximum number of overlay images in one response; ten take 0.2 s of a worker. They may still exceed the maximum
response size of 6 MB, because one image takes up to 0.5 MB, or 0.67 MB in base64."""
Content = bytes | torch.Tensor
"""An upload, or a preprocessed tensor: float32, (3, 224, 224), normalized."""


@dataclass(frozen=True)
class Upload:
    """One image of a request, or the error that replaces it, and the name of its form part, if any."""

    content: Content | RequestError
    name: str | None = None

    @classmethod
    def read(cls, read: Callable[[object], Content], value: object) -> "Upload":
        """Read one image of several; its error affects no other."""
        try:
            return cls(read(value))
        except RequestError as error:
            return cls(error)


@dataclass(frozen=True)
class Request(ABC):
    """One request in one of the protocols: its images in the order sent, and its options.

    explain_options: None unless the request asks for explanations.
    """

    uploads: Sequence[Upload]
    options: Options
    explain_options: ExplainOptions | None = None

    @property
    def top_k(self) -> int:
        """Return the number of classes per image that the answer needs."""
        return self.options.top_k

    @property
    def embeds(self) -> bool:
        """Return whether the answer contains embeddings."""
        return self.options.embedding is not Encoding.NONE

    @property
    def shown(self) -> int | None:
        """Return the longer side in pixels of the whole images that the answer contains, or None."""
        return self.explain_options.shown if self.explain_options else None

    @abstractmethod
    def answer(self, outcomes: Sequence[ImageResult | RequestError], model: Mapping[str, object]) -> Reply:
        """Return the reply.

        outcomes: one per upload. model: its name, version, weights and precision, and "calibrated" if it is.

        Raises:
            RequestError: one image's error, if the protocol can only report it for the whole request.
        """


def require_results(outcomes: Sequence[ImageResult | RequestError]) -> list[ImageResult]:
    """Return the results of all images, for an answer that cannot contain errors.

    Raises:
        RequestError: the first image's error, with its place among the images.
    """
    results = []
    for i, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, RequestError):
            raise RequestError(outcome.code, f"image {i} of {len(outcomes)}: {outcome.message}")
        results.append(outcome)
    return results


def check_count(count: int, settings: Settings) -> None:
    """Check the number of images before decoding: 10 MB of JSON can contain millions of instances.

    Raises:
        RequestError: too_many_images.
    """
    if count > settings.max_images:
        raise RequestError(
            ErrorCode.TOO_MANY_IMAGES, f"the request has {count} images; send at most {settings.max_images} per request"
        )


def check_overlays(uploads: Sequence[Upload], explain_options: ExplainOptions) -> None:
    """Check the number of overlay images before decoding: they cause most of the cost of explanations.

    Preprocessed tensors have no overlay images.

    Raises:
        RequestError: answer_too_large.
    """
    uploaded = sum(isinstance(upload.content, bytes) for upload in uploads)
    count = uploaded * explain_options.images_per_upload
    if count > MAX_OVERLAY_IMAGES:
        raise RequestError(
            ErrorCode.ANSWER_TOO_LARGE,
            f"the answer would have {count} overlay images; request at most {MAX_OVERLAY_IMAGES}: send fewer images, "
            "name fewer targets, or set overlays to crop, picture or none (both makes two per image and target)",
        )
