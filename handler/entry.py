"""What TorchServe calls: the only module that knows its rows and its context.

TorchServe takes the module's one class for the handler, so there must be no second one here.
"""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from handler import (
    encoding,
    explaining,
    fair_share,
    hardware,
    journal,
    labels,
    metrics,
    payload,
    protocols,
    reply,
    scoring,
    transform,
)
from handler.context import Context
from handler.control import Control
from handler.cropping import CROP
from handler.decoder import Decoded, Decoder
from handler.explaining import Look
from handler.failures import Code, Failure
from handler.fair_share import Task
from handler.metrics import Answered, Clock
from handler.page import Page
from handler.protocols import Asked
from handler.reply import Reply
from handler.request import Outcome, Request, Seen, Upload
from handler.scoring import Scores
from handler.settings import Settings

log = logging.getLogger(__name__)
Scored = tuple[torch.Tensor, torch.Tensor] | Failure  # logits and activations of one picture
_DRAINING = Failure(Code.DRAINING, "the service is about to stop; send the request again in a moment")
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
        hardware.check(self.card["precision"])
        self.decoder = Decoder(self.settings.decode_memory)
        self.batch_seconds = fair_share.batch_seconds(context.model_yaml_config)
        self.network = scoring.load(
            folder / "model.pt",
            sha256=self.card["network"]["sha256"],
            threads=self.settings.threads,
            device=hardware.device(self.card["precision"], context.system_properties.get("gpu_id")),
        )
        outputs = self._score(torch.zeros(1, 3, CROP, CROP)).logits.shape[1]
        if outputs != len(self.classes):
            raise ValueError(f"the network has {outputs} outputs, the class index {len(self.classes)} classes")
        self.model = {
            "name": context.model_name,
            "version": str(context.manifest["model"]["modelVersion"]),
            "weights": self.card["weights"]["name"],
            "precision": self.card["precision"],
        }
        self.decoder.wait_until_ready()
        self.page = Page(self.card, self.model, self.settings)
        self.control = Control.from_environment(self.model["version"])
        self.meter = metrics.Meter(context.metrics, self.model)
        log.info("ready: %s, torch %s, %d thread(s)", self.model, torch.__version__, self.settings.threads)
        if self.card["weights"]["name"] == "untrained":
            log.warning("THE WEIGHTS ARE UNTRAINED: every answer is meaningless")

    def handle(self, rows: Sequence[Mapping[str, object]], context: Context) -> list[bytes]:
        """Answers a batch: one answer a row, whatever is in it. Never raises for what a row holds."""
        headers = [context.get_all_request_header(i) for i in range(len(rows))]
        if len(rows) == 1 and self.control.hold(headers[0]):
            return [self._send(context, 0, reply.document({"held": True}))]
        self.control.begin()
        answers = self._handle(rows, context)
        self.control.end(len(rows))
        return answers

    def _handle(self, rows: Sequence[Mapping[str, object]], context: Context) -> list[bytes]:
        clock = Clock()
        found = [self._read(row, context, i) for i, row in enumerate(rows)]
        asked = {i: (item.protocol, item.request) for i, item in enumerate(found) if isinstance(item, Asked)}
        outcomes = self._classify({i: request for i, (_, request) in asked.items()}, context, clock)
        answered = [
            Answered(item)
            if isinstance(item, Reply)
            else Answered(self._answer(context, i, item, outcomes[i]), outcomes[i], item.request.min_probability)
            for i, item in enumerate(found)
        ]
        self._tell(context, answered, clock)
        return [self._send(context, i, one.reply) for i, one in enumerate(answered)]

    def _read(self, row: Mapping[str, object], context: Context, i: int) -> Asked | Reply:
        headers = context.get_all_request_header(i)
        plain = payload.plain_headers(headers)
        # TorchServe asks for the model card with an empty row and no content; a client who sends the header still
        # gets a prediction, or is told what is wrong with the form.
        if not row and "content-type" not in plain and plain.get("describe", "").lower() == "true":
            return reply.document(self.card | {"model": self.model, "options": vars(self.settings)})
        form = self.page.protocol(plain)
        protocol = form or protocols.presume(row, plain)
        if self.control.draining:
            return reply.turned_away(protocol.refuse(_DRAINING), plain)
        received = self._guard(context, i, payload.read, row, headers)
        if isinstance(received, Failure):
            if received.code is Code.NO_IMAGE and form is None:
                instead = reply.instead_of_an_answer(plain) or self.page.instead_of_an_answer(plain)
                return instead or protocol.refuse(received)
            return protocol.refuse(received)
        recognized = protocol if form else self._guard(context, i, protocols.recognize, received, plain)
        if isinstance(recognized, Failure):
            return protocol.refuse(recognized)
        if protocols.wants_explanations(plain):
            request = self._guard(context, i, recognized.explain, received, self.settings, self.classes)
        else:
            request = self._guard(context, i, recognized.read, received, self.settings)
        return recognized.refuse(request) if isinstance(request, Failure) else Asked(recognized, request)

    def _look_at_all(self, asked: Mapping[int, Request], context: Context) -> dict[int, list[Look | Failure]]:
        """Decode and crop all uploads of a batch; by row, in its uploads' order."""
        tasks = {
            (i, position): Task(i, upload.content, request.shown)
            for i, request in asked.items()
            for position, upload in enumerate(request.uploads)
            if isinstance(upload.content, bytes)
        }
        fair_share.decode_all(self.decoder, list(tasks.values()), self.settings, self.batch_seconds)
        return {
            i: [
                self._guard(context, i, _look, upload, tasks.get((i, position)))
                for position, upload in enumerate(request.uploads)
            ]
            for i, request in asked.items()
        }

    def _score(self, batch: torch.Tensor) -> Scores:
        return scoring.score(self.network, batch, chunk=self.settings.network_batch)

    def _classify(self, asked: Mapping[int, Request], context: Context, clock: Clock) -> dict[int, list[Outcome]]:
        """All rows' images through the network together; by row, the outcomes in its uploads' order."""
        with clock.decoding():
            looks = self._look_at_all(asked, context)
        images = [look.image for row in looks.values() for look in row if isinstance(look, Look)]
        with clock.scoring():
            scored = iter(self._score_all(images, context))
        return {
            i: [
                look if isinstance(look, Failure) else self._guard(context, i, self._see, look, next(scored), request)
                for look in looks[i]
            ]
            for i, request in asked.items()
        }

    def _see(self, look: Look, scored: Scored, request: Request) -> Seen:
        if isinstance(scored, Failure):
            raise scored
        logits, activations = scored
        if isinstance(look.image, torch.Tensor):
            encoding.check_finite(logits)
        ranked = labels.rank(logits, self.classes, request.top_k)
        if request.why is None:
            return Seen(ranked, shown=look.picture)
        explanations = explaining.explain(self.network, logits, activations, self.classes, request.why, look)
        return Seen(ranked, explanations, look.box)

    def _score_all(self, images: Sequence[bytes | bytearray | torch.Tensor], context: Context) -> Sequence[Scored]:
        if not images:
            return []
        together = self._guard(context, 0, lambda: self._score(transform.to_batch(images)))
        if not isinstance(together, Failure):
            return list(zip(together.logits, together.activations, strict=True))
        if len(images) == 1:
            if scoring.is_lost(self.network):
                sys.exit("the GPU is in error; TorchServe starts another worker")
            return [together]
        # One image must not take the others down: each for itself then.
        return [result for image in images for result in self._score_all([image], context)]

    def _answer(self, context: Context, i: int, asked: Asked, outcomes: Sequence[Outcome]) -> Reply:
        answer = self._guard(context, i, asked.request.answer, outcomes, self.model)
        if isinstance(answer, Reply) and len(answer.body) > self.settings.max_response_bytes:
            answer = Failure(
                Code.ANSWER_TOO_LARGE,
                "the answer would be too large; ask for a smaller top_k, fewer targets, overlays or images",
            )
        if isinstance(answer, Failure):
            return asked.protocol.refuse(answer)
        return replace(answer, protocol=asked.protocol.name)

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

    def _tell(self, context: Context, answered: Sequence[Answered], clock: Clock) -> None:
        """To operators: the batch in numbers and, where logs are JSON, each request in a line."""
        self.meter.tell(metrics.observe(answered, clock))
        if journal.wanted():
            for i, one in enumerate(answered):
                caller = journal.caller_id(payload.plain_headers(context.get_all_request_header(i)))
                ids = {"request": context.get_request_id(i), "caller": caller}
                log.info("%s", journal.line(one, clock, batch=len(answered), **ids))

    def _send(self, context: Context, i: int, answer: Reply) -> bytes:
        # The phrase stays empty: a non-ASCII or foreign one would break the worker's protocol.
        context.set_response_status(answer.status, "", i)
        context.set_response_content_type(i, answer.content_type)
        for name, value in answer.headers.items():
            context.set_response_header(i, name, value)
        plain = payload.plain_headers(context.get_all_request_header(i))
        if caller := journal.caller_id(plain):
            context.set_response_header(i, journal.HEADER, caller)
        # A gRPC call has no headers of its own. If it is a stream, TorchServe looks for this one in the answer and ends
        # the worker where it is missing; on an HTTP answer it would break the framing.
        if not plain:
            context.set_response_header(i, "ts_stream_next", "false")
        return answer.body


def _look(upload: Upload, task: Task | None) -> Look:
    """What became of one upload. Raises why there is nothing to be seen."""
    if isinstance(upload.content, torch.Tensor):
        return Look(upload.content)
    result = task.result if task else upload.content
    if isinstance(result, Exception):
        raise result
    assert isinstance(result, Decoded)
    return explaining.look(result)


def _quieten() -> None:
    """Drops TorchServe's two log lines a request; its metrics, log lines too, must stay."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not str(record.msg).startswith("Backend received inference"))
