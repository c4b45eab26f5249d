"""The way of a batch through the service, one verb after the other: read, decode, transform, score, rank, reply.

There is one record a request and one an image. Each verb goes over the records that have come so far, and fills in the
next field of each. An error ends the way of its own record: no image hurts another one, no request another one.
"""

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from handler import encoding, explaining, fair_share, labels, metrics, scoring, transform
from handler.decoder import Decoded, Decoder
from handler.failures import Code, Failure
from handler.fair_share import Task
from handler.labels import ClassIndex
from handler.metrics import Clock
from handler.payload import Row
from handler.protocols import Asked
from handler.reply import Reply
from handler.request import Outcome, Seen, Upload
from handler.routing import Router
from handler.scoring import Network, Scores
from handler.settings import Settings

log = logging.getLogger(__name__)


@dataclass
class RequestRecord:
    """One request on its way."""

    row: Row
    asked: Asked | None = None
    images: Sequence["ImageRecord"] = ()
    reply: Reply | None = None
    error: Failure | None = None

    @property
    def request_id(self) -> str | None:
        """TorchServe's id of the request."""
        return self.row.request_id


@dataclass
class ImageRecord:
    """One image on its way. Fields are None until their verb was there; after an error they stay so."""

    request: RequestRecord
    upload: Upload
    decoded: Decoded | None = None
    tensor: torch.Tensor | None = None
    """float32, (1, 3, 224, 224), normalized."""
    logits: torch.Tensor | None = None
    """float32, (classes,)."""
    activations: torch.Tensor | None = None
    """float32, (49, 1024)."""
    result: Seen | None = None
    error: Failure | None = None

    @property
    def request_id(self) -> str | None:
        """TorchServe's id of the request that the image came in."""
        return self.request.request_id

    @property
    def asked(self) -> Asked:
        """What is asked about the image."""
        assert self.request.asked is not None
        return self.request.asked

    @property
    def outcome(self) -> Outcome:
        """What became of the image, at the end of the way."""
        outcome = self.error or self.result
        assert outcome is not None
        return outcome


@dataclass
class Pipeline:
    """The way of a batch, for one loaded model. model: what answers say of it."""

    settings: Settings
    classes: ClassIndex
    network: Network
    decoder: Decoder
    router: Router
    model: Mapping[str, str]
    batch_seconds: float
    """Processor time for decoding a batch."""
    clock: Clock = field(default_factory=Clock)

    def run(self, rows: Sequence[Row]) -> list[metrics.Answered]:
        """Answer a batch. Never raises for what a row holds."""
        self.clock = Clock()
        requests = [RequestRecord(row) for row in rows]
        self.read(requests)
        images = [image for request in requests for image in request.images]
        self.decode(images)
        self.transform(images)
        self.score(images)
        self.rank(images)
        self.explain(images)
        self.reply(requests)
        return [_completed(request) for request in requests]

    def read(self, requests: Sequence[RequestRecord]) -> None:
        """Request row → what is asked, and a record for each of its images; or a reply at once."""
        for request in requests:
            with _isolated(request):
                routed = self.router.route(request.row)
                if isinstance(routed, Reply):
                    request.reply = routed
                else:
                    request.asked = routed
                    request.images = [ImageRecord(request, upload) for upload in routed.request.uploads]

    def decode(self, images: Sequence[ImageRecord]) -> None:
        """Encoded image → crop, and the image made smaller where the answer shows it."""
        with self.clock.measure("decode"):
            tasks = {
                id(image): Task(id(image.request), image.upload.content, image.asked.request.shown)
                for image in images
                if isinstance(image.upload.content, bytes)
            }
            fair_share.decode_all(self.decoder, list(tasks.values()), self.settings, self.batch_seconds)
            for image in images:
                with _isolated(image):
                    if isinstance(image.upload.content, Failure):
                        raise image.upload.content
                    if task := tasks.get(id(image)):
                        image.decoded = task.get()

    def transform(self, images: Sequence[ImageRecord]) -> None:
        """Crop → tensor. The crop itself was cut in the decoder's process, and its time counts here."""
        with self.clock.measure("transform"):
            for image in _going(images):
                with _isolated(image):
                    if isinstance(image.upload.content, torch.Tensor):
                        image.tensor = image.upload.content.unsqueeze(0)
                    elif image.decoded:
                        image.tensor = transform.normalize([image.decoded.crop])
        cropping = sum(image.decoded.crop_seconds for image in images if image.decoded)
        self.clock.move(cropping, "decode", "transform")

    def score(self, images: Sequence[ImageRecord]) -> None:
        """Tensors → logits and activations, all images together."""
        with self.clock.measure("score"):
            going = _going(images)
            if len(going) > 1 and self._score_together(going):
                return
            # One image must not take the others down: each for itself then.
            for image in going:
                with _isolated(image):
                    self._score([image])
                if image.error and scoring.is_lost(self.network):
                    sys.exit("the GPU is in error; TorchServe starts another worker")

    def _score_together(self, images: Sequence[ImageRecord]) -> bool:
        try:
            self._score(images)
        except Exception as error:
            log.warning("a batch of %d images fails in the network, each is scored alone: %a", len(images), error)
            return False
        return True

    def _score(self, images: Sequence[ImageRecord]) -> None:
        scores = self.score_batch(torch.cat([image.tensor for image in images if image.tensor is not None]))
        for image, logits, activations in zip(images, scores.logits, scores.activations, strict=True):
            image.logits, image.activations = logits, activations

    def score_batch(self, batch: torch.Tensor) -> Scores:
        """float32, (N, 3, 224, 224), normalized → the network's scores."""
        return scoring.score(self.network, batch, chunk=self.settings.network_batch)

    def rank(self, images: Sequence[ImageRecord]) -> None:
        """Logits → ranked labels."""
        with self.clock.measure("rank"):
            for image in _going(images):
                with _isolated(image):
                    assert image.logits is not None
                    if not image.decoded:  # a preprocessed image, whose numbers are the client's
                        encoding.check_finite(image.logits)
                    ranked = labels.rank(image.logits, self.classes, image.asked.request.top_k)
                    image.result = Seen(ranked, shown=image.decoded.shown if image.decoded else None)

    def explain(self, images: Sequence[ImageRecord]) -> None:
        """Activations → maps of classes, where they are asked for."""
        for image in _going(images):
            if not (why := image.asked.request.why):
                continue
            with _isolated(image):
                assert image.result is not None
                assert image.logits is not None
                assert image.activations is not None
                explanations = explaining.explain(
                    self.network, image.logits, image.activations, self.classes, why, image.decoded
                )
                crop = image.decoded.box if image.decoded else None
                image.result = replace(image.result, explanations=explanations, crop=crop)

    def reply(self, requests: Sequence[RequestRecord]) -> None:
        """Ranked labels → JSON, page or PNG, in the request's protocol."""
        with self.clock.measure("reply"):
            for request in requests:
                with _isolated(request):
                    if request.asked and not request.error:
                        request.reply = self._answer(request.asked, [image.outcome for image in request.images])
                if request.error:
                    request.reply = self.router.refuse(request.row, request.asked, request.error)

    def _answer(self, asked: Asked, outcomes: Sequence[Outcome]) -> Reply:
        answer = asked.request.answer(outcomes, self.model)
        if len(answer.body) > self.settings.max_response_bytes:
            raise Failure(
                Code.ANSWER_TOO_LARGE,
                "the answer would be too large; ask for a smaller top_k, fewer targets, overlays or images",
            )
        return replace(answer, protocol=asked.protocol.name)


@contextmanager
def _isolated(record: RequestRecord | ImageRecord) -> Iterator[None]:
    """Keep one record's failure from the others. A defect of ours leaves a traceback in the log."""
    try:
        yield
    except Failure as failure:
        record.error = failure
    except Exception:
        # On one line and escaped: TorchServe acts on what a worker prints at the start of a line.
        log.error("request %s: unexpected failure: %a", record.request_id, traceback.format_exc())
        record.error = Failure(Code.INTERNAL_ERROR, "the service failed on this image; its log has the reason")


def _going(images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Those whose way has not ended."""
    return [image for image in images if not image.error]


def _completed(request: RequestRecord) -> metrics.Answered:
    assert request.reply is not None
    outcomes = [image.outcome for image in request.images]
    least = request.asked.request.min_probability if request.asked else 0.0
    return metrics.Answered(request.reply, outcomes, least)
