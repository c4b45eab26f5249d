"""Process a batch in six steps: read, decode, transform, score, rank, reply. On request, embed and explain follow rank.

Each request and each image has a record. Each step goes over the records without an error and fills in their next
field. An error affects only its own record, never other images or requests.
"""

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch

from handler import embedding, explaining, fair_share, json_images, metrics, ranking, scoring, transform
from handler.calibration import Calibration
from handler.decoder import Decoded, Decoder
from handler.errors import ErrorCode, RequestError
from handler.fair_share import Task
from handler.metrics import Clock
from handler.payload import Row
from handler.protocols import ParsedRequest
from handler.ranking import ClassIndex
from handler.reply import Reply
from handler.request import Upload
from handler.results import ImageResult
from handler.routing import Router
from handler.scoring import Network, Scores
from handler.settings import Settings
from handler.threads import Threads

log = logging.getLogger(__name__)


@dataclass
class RequestRecord:
    """The state of one request."""

    row: Row
    parsed: ParsedRequest | None = None
    images: Sequence["ImageRecord"] = ()
    reply: Reply | None = None
    error: RequestError | None = None

    @property
    def request_id(self) -> str | None:
        """Return TorchServe's id of the request."""
        return self.row.request_id


@dataclass
class ImageRecord:
    """The state of one image. A field is None until its step has run, and stays None after an error.

    It does not refer to its request's record, which refers to it: a cycle would keep the tensors in memory until the
    garbage collector runs.
    """

    request_id: str | None
    parsed: ParsedRequest
    upload: Upload
    decoded: Decoded | None = None
    tensor: torch.Tensor | None = None
    """float32, (1, 3, 224, 224), normalized."""
    logits: torch.Tensor | None = None
    """float32, (classes,)."""
    activations: torch.Tensor | None = None
    """float32, (49, 1024)."""
    result: ImageResult | None = None
    error: RequestError | None = None

    @property
    def outcome(self) -> ImageResult | RequestError:
        """Return the image's result or its error; valid after the last step."""
        outcome = self.error or self.result
        assert outcome is not None
        return outcome


@dataclass
class Pipeline:
    """The steps for one loaded model.

    model: its name, version, weights and precision, and whether it is calibrated, as responses contain them.
    """

    settings: Settings
    classes: ClassIndex
    network: Network
    decoder: Decoder
    router: Router
    model: Mapping[str, object]
    batch_seconds: float
    """Limit of processor time in seconds for decoding a batch."""
    calibration: Calibration | None = None
    """What labelled photos taught about this network, if the model card has it."""
    threads: Threads | int = 1
    """The number of threads for the network, or what chooses it each time."""
    clock: Clock = field(default_factory=Clock)

    @property
    def temperature(self) -> float:
        """Return what logits are divided by before the softmax."""
        return self.calibration.temperature if self.calibration else 1.0

    def run(self, rows: Sequence[Row]) -> list[metrics.CompletedRequest]:
        """Answer a batch: one completed request per row, in order. Never raises because of a row's content."""
        self.clock = Clock()
        requests = [RequestRecord(row) for row in rows]
        self.read(requests)
        images = [image for request in requests for image in request.images]
        self.decode(images)
        self.transform(images)
        self.score(images)
        self.rank(images)
        self.embed(images)
        self.explain(images)
        self.reply(requests)
        return [_completed(request) for request in requests]

    def read(self, requests: Sequence[RequestRecord]) -> None:
        """Parse each row into a request with a record per image, or into an immediate reply."""
        for request in requests:
            with _isolated(request):
                routed = self.router.route(request.row)
                if isinstance(routed, Reply):
                    request.reply = routed
                else:
                    request.parsed = routed
                    request.images = [
                        ImageRecord(request.request_id, routed, upload) for upload in routed.request.uploads
                    ]

    def decode(self, images: Sequence[ImageRecord]) -> None:
        """Decode each upload to a crop and, if the answer contains it, the scaled-down whole image."""
        with self.clock.measure("decode"):
            tasks = {
                id(image): Task(id(image.parsed), image.upload.content, image.parsed.request.shown)
                for image in images
                if isinstance(image.upload.content, bytes)
            }
            fair_share.decode_all(self.decoder, list(tasks.values()), self.settings, self.batch_seconds)
            for image in images:
                with _isolated(image):
                    if isinstance(image.upload.content, RequestError):
                        raise image.upload.content
                    if task := tasks.get(id(image)):
                        image.decoded = task.get()

    def transform(self, images: Sequence[ImageRecord]) -> None:
        """Convert each crop to a tensor.

        The decoder process has already cut the crop; the time for it counts as transform.
        """
        with self.clock.measure("transform"):
            for image in _without_error(images):
                with _isolated(image):
                    if isinstance(image.upload.content, torch.Tensor):
                        image.tensor = image.upload.content.unsqueeze(0)
                    elif image.decoded:
                        image.tensor = transform.normalize([image.decoded.crop])
        cropping = sum(image.decoded.crop_seconds for image in images if image.decoded)
        self.clock.move(cropping, "decode", "transform")

    def score(self, images: Sequence[ImageRecord]) -> None:
        """Compute logits and activations of all tensors in one batch."""
        with self.clock.measure("score"):
            pending = _without_error(images)
            if len(pending) > 1 and self._score_together(pending):
                return
            # If the batch fails, score each image separately, so that one image does not make the others fail.
            for image in pending:
                with _isolated(image):
                    self._score([image])
                if image.error and scoring.is_lost(self.network):
                    sys.exit("the GPU has failed; TorchServe restarts the worker")

    def _score_together(self, images: Sequence[ImageRecord]) -> bool:
        try:
            self._score(images)
        except Exception as error:
            log.warning("scoring a batch of %d images failed; scoring each image separately: %a", len(images), error)
            return False
        return True

    def _score(self, images: Sequence[ImageRecord]) -> None:
        scores = self.score_batch(torch.cat([image.tensor for image in images if image.tensor is not None]))
        for image, logits, activations in zip(images, scores.logits, scores.activations, strict=True):
            image.logits, image.activations = logits, activations

    def score_batch(self, batch: torch.Tensor) -> Scores:
        """Return the network's scores of a batch: float32, (N, 3, 224, 224), normalized."""
        chosen = self.threads
        with nullcontext(chosen) if isinstance(chosen, int) else chosen.for_images(len(batch)) as threads:
            return scoring.score(self.network, batch, chunk=self.settings.network_batch, threads=threads)

    def rank(self, images: Sequence[ImageRecord]) -> None:
        """Rank each image's classes by its logits."""
        for image in _without_error(images):
            with _isolated(image):
                assert image.logits is not None
                if not image.decoded:  # a preprocessed tensor with values from the client
                    json_images.check_finite(image.logits)
                image.result = self._rank(image, image.logits)

    def _rank(self, image: ImageRecord, logits: torch.Tensor) -> ImageResult:
        ranked = ranking.top_k(logits, self.classes, image.parsed.request.top_k, self.temperature)
        best, unknown_score = ranked[0], None
        recognized = best.probability >= self.settings.min_probability
        if self.calibration:
            unknown_score = self.calibration.unknown_score(logits)
            recognized = self.calibration.recognizes(best.class_id, best.probability, unknown_score)
        shown = image.decoded.shown if image.decoded else None
        return ImageResult(ranked, recognized, shown=shown, unknown_score=unknown_score)

    def embed(self, images: Sequence[ImageRecord]) -> None:
        """Compute the embeddings of the images whose requests ask for them."""
        for image in _without_error(images):
            if not image.parsed.request.embeds:
                continue
            with _isolated(image):
                assert image.result is not None
                assert image.activations is not None
                values = embedding.embed(image.activations, image.parsed.request.options.embedding_norm)
                image.result = replace(image.result, embedding=values)

    def explain(self, images: Sequence[ImageRecord]) -> None:
        """Compute explanations for the images whose requests ask for them."""
        for image in _without_error(images):
            if not (explain_options := image.parsed.request.explain_options):
                continue
            with _isolated(image):
                assert image.result is not None
                assert image.logits is not None
                assert image.activations is not None
                explanations = explaining.explain(
                    self.network,
                    image.logits,
                    image.activations,
                    self.classes,
                    explain_options,
                    image.decoded,
                    self.temperature,
                )
                crop = image.decoded.box if image.decoded else None
                image.result = replace(image.result, explanations=explanations, crop=crop)

    def reply(self, requests: Sequence[RequestRecord]) -> None:
        """Build each request's reply, JSON, HTML or PNG, in its protocol."""
        for request in requests:
            with _isolated(request):
                if request.parsed and not request.error:
                    request.reply = self._answer(request.parsed, [image.outcome for image in request.images])
            if request.error:
                request.reply = self.router.refuse(request.row, request.parsed, request.error)

    def _answer(self, parsed: ParsedRequest, outcomes: Sequence[ImageResult | RequestError]) -> Reply:
        answer = parsed.request.answer(outcomes, self.model)
        if len(answer.body) > self.settings.max_response_bytes:
            raise RequestError(
                ErrorCode.ANSWER_TOO_LARGE,
                f"the answer has {len(answer.body)} bytes, more than {self.settings.max_response_bytes}; request a "
                "smaller top_k, or fewer targets, overlays, embeddings or images",
            )
        return replace(answer, protocol=parsed.protocol.name)


@contextmanager
def _isolated(record: RequestRecord | ImageRecord) -> Iterator[None]:
    """Store an error in its record, so that other records are not affected. Log the traceback of a bug."""
    try:
        yield
    except RequestError as error:
        record.error = error.with_traceback(None)  # a traceback refers to the record again
    except Exception:
        # On one line and escaped, because TorchServe parses the start of every line that a worker prints.
        log.error("request %s: unexpected failure: %a", record.request_id, traceback.format_exc())
        record.error = RequestError(
            ErrorCode.INTERNAL_ERROR, "the service failed to process this image; its log contains the reason"
        )


def _without_error(images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return the images without an error."""
    return [image for image in images if not image.error]


def _completed(request: RequestRecord) -> metrics.CompletedRequest:
    assert request.reply is not None
    outcomes = [image.outcome for image in request.images]
    min_probability = request.parsed.request.options.min_probability if request.parsed else None
    return metrics.CompletedRequest(request.reply, outcomes, min_probability)
