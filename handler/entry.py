"""What TorchServe calls: the only module that knows its rows and its context.

TorchServe takes the module's one class for the handler, so there must be no second one here.
"""

import json
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from PIL.Image import Image

from handler import imaging, labels, payload, reply, scoring, transform
from handler.context import Context
from handler.failures import Code, Failure
from handler.payload import Request, Upload
from handler.reply import Outcome, Reply
from handler.settings import Settings

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class Classifier:
    """TorchServe's handler. It finds the one class in this module, calls initialize once, then handle a batch."""

    def initialize(self, context: Context) -> None:
        """Loads everything a request needs. Raises what is wrong with the archive; the worker then does not start."""
        folder = Path(context.system_properties["model_dir"])
        _quieten()
        self.settings = Settings.from_config(context.model_yaml_config)
        self.card: dict[str, Any] = json.loads((folder / "model_card.json").read_text(encoding="utf-8"))
        self.classes = labels.load_class_index(folder / "index_to_name.json")
        self.network = scoring.load(
            folder / "model.pt", sha256=self.card["network"]["sha256"], threads=self.settings.threads
        )
        outputs = self._score(torch.zeros(1, 3, transform.CROP, transform.CROP)).shape[1]
        if outputs != len(self.classes):
            raise ValueError(f"the network has {outputs} outputs, the class index {len(self.classes)} classes")
        self.model = {
            "name": context.model_name,
            "version": str(context.manifest["model"]["modelVersion"]),
            "weights": self.card["weights"]["name"],
            "precision": self.card["precision"],
        }
        log.info("ready: %s, torch %s, %d thread(s)", self.model, torch.__version__, self.settings.threads)
        if self.card["weights"]["name"] == "untrained":
            log.warning("THE WEIGHTS ARE UNTRAINED: every answer is meaningless")

    def handle(self, rows: Sequence[Mapping[str, object]], context: Context) -> list[bytes]:
        """Answers a batch: one answer a row, whatever is in it. Never raises for what a row holds."""
        requests = [self._guard(context, i, self._read, row, context, i) for i, row in enumerate(rows)]
        asked = {i: request for i, request in enumerate(requests) if isinstance(request, Request)}
        outcomes = self._classify(asked, context)
        replies = [
            self._guard(context, i, self._reply, request, outcomes.get(i, [])) for i, request in enumerate(requests)
        ]
        return [self._send(context, i, item) for i, item in enumerate(replies)]

    def _read(self, row: Mapping[str, object], context: Context, i: int) -> Request | Reply:
        headers = context.get_all_request_header(i)
        # TorchServe asks for the model card with an empty row; a client who sends the header with an image
        # still gets a prediction.
        if not row and payload.plain_headers(headers).get("describe", "").lower() == "true":
            return reply.document(self.card | {"model": self.model, "options": vars(self.settings)})
        try:
            return payload.read(row, headers, self.settings)
        except Failure as failure:
            if failure.code is Code.NO_IMAGE and reply.wants_page(payload.plain_headers(headers)):
                return reply.upload_page()
            raise

    def _look(self, upload: Upload) -> Image:
        """Decode and crop one upload, to a picture of the network's size; larger ones are not held on to."""
        if isinstance(upload.content, Failure):
            raise upload.content
        return transform.crop(imaging.decode(upload.content, max_pixels=self.settings.max_image_pixels))

    def _score(self, batch: torch.Tensor) -> torch.Tensor:
        return scoring.score(self.network, batch, chunk=self.settings.network_batch)

    def _classify(self, asked: Mapping[int, Request], context: Context) -> dict[int, list[Outcome]]:
        """All rows' images through the network together; by row, the outcomes in its uploads' order."""
        crops = {
            i: [self._guard(context, i, self._look, upload) for upload in request.uploads]
            for i, request in asked.items()
        }
        images = [crop for row in crops.values() for crop in row if not isinstance(crop, Failure)]
        scored = iter(self._score_all(images, context))
        return {
            i: [
                self._guard(context, i, self._rank, crop if isinstance(crop, Failure) else next(scored), request)
                for crop in crops[i]
            ]
            for i, request in asked.items()
        }

    def _rank(self, logits: torch.Tensor | Failure, request: Request) -> Outcome:
        if isinstance(logits, Failure):
            return logits
        return labels.rank(logits, self.classes, request.options.top_k)

    def _score_all(self, images: Sequence[Image], context: Context) -> Sequence[torch.Tensor | Failure]:
        if not images:
            return []
        together = self._guard(context, 0, lambda: self._score(transform.normalize(images)))
        if not isinstance(together, Failure):
            return list(together)
        if len(images) == 1:
            return [together]
        # One image must not take the others down: each for itself then.
        return [result for image in images for result in self._score_all([image], context)]

    def _reply(self, request: Request | Reply | Failure, outcomes: Sequence[Outcome]) -> Reply:
        if isinstance(request, Reply):
            return request
        if isinstance(request, Failure):
            raise request
        return reply.success(request, outcomes, self.model, max_bytes=self.settings.max_response_bytes)

    def _guard(
        self, context: Context, i: int, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T | Failure:
        """Runs one step for one row. A defect of ours costs that row a 500 and leaves a traceback in the log."""
        try:
            return step(*args, **kwargs)
        except Failure as failure:
            return failure
        except Exception:
            # On one line and escaped: TorchServe acts on what a worker prints at the start of a line.
            log.error("request %s: unexpected failure: %a", context.get_request_id(i), traceback.format_exc())
            return Failure(Code.INTERNAL_ERROR, "the service failed on this image; its log has the reason")

    def _send(self, context: Context, i: int, item: Reply | Failure) -> bytes:
        answer = reply.failure(item) if isinstance(item, Failure) else item
        # The phrase stays empty: a non-ASCII or foreign one would break the worker's protocol.
        context.set_response_status(answer.status, "", i)
        context.set_response_content_type(i, answer.content_type)
        return answer.body


def _quieten() -> None:
    """Drops TorchServe's two log lines a request; its metrics, log lines too, must stay."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not str(record.msg).startswith("Backend received inference"))
