"""What TorchServe calls: the only module that knows its rows, its context and its responses.

TorchServe takes the module's one class for the handler, so there must be no second one here.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from handler import fair_share, hardware, journal, labels, metrics, reply, scoring
from handler.context import Context
from handler.control import Control
from handler.cropping import CROP
from handler.decoder import Decoder
from handler.metrics import Answered
from handler.page import Page
from handler.payload import Row
from handler.pipeline import Pipeline
from handler.reply import Reply
from handler.routing import Router
from handler.settings import Settings

log = logging.getLogger(__name__)


class Classifier:
    """TorchServe's handler. It finds the one class in this module, calls initialize once, then handle a batch."""

    def initialize(self, context: Context) -> None:
        """Loads everything a request needs. Raises what is wrong with the archive; the worker then does not start."""
        folder = Path(context.system_properties["model_dir"])
        _quieten()
        settings = Settings.from_config(context.model_yaml_config)
        card: dict[str, Any] = json.loads((folder / "model_card.json").read_text(encoding="utf-8"))
        classes = labels.load_class_index(folder / "index_to_name.json")
        hardware.check(card["precision"])
        decoder = Decoder(settings.decode_memory)  # starts while the network is loaded
        network = scoring.load(
            folder / "model.pt",
            sha256=card["network"]["sha256"],
            threads=settings.threads,
            device=hardware.device(card["precision"], context.system_properties.get("gpu_id")),
        )
        outputs = scoring.score(network, torch.zeros(1, 3, CROP, CROP), chunk=1).logits.shape[1]
        if outputs != len(classes):
            raise ValueError(f"the network has {outputs} outputs, the class index {len(classes)} classes")
        decoder.wait_until_ready()
        model = {
            "name": context.model_name,
            "version": str(context.manifest["model"]["modelVersion"]),
            "weights": card["weights"]["name"],
            "precision": card["precision"],
        }
        self.control = Control.from_environment(model["version"])
        self.meter = metrics.Meter(context.metrics, model)
        router = Router(
            page=Page(card, model, settings),
            classes=classes,
            settings=settings,
            card=card | {"model": model, "options": vars(settings)},
            draining=lambda: self.control.draining,
        )
        batch_seconds = fair_share.batch_seconds(context.model_yaml_config)
        self.pipeline = Pipeline(settings, classes, network, decoder, router, model, batch_seconds)
        log.info("ready: %s, torch %s, %d thread(s)", model, torch.__version__, settings.threads)
        if model["weights"] == "untrained":
            log.warning("THE WEIGHTS ARE UNTRAINED: every answer is meaningless")

    def handle(self, rows: Sequence[Mapping[str, object]], context: Context) -> list[bytes]:
        """Answers a batch: one answer a row, whatever is in it. Never raises for what a row holds."""
        batch = [
            Row.make(entries, context.get_all_request_header(i), context.get_request_id(i))
            for i, entries in enumerate(rows)
        ]
        if len(batch) == 1 and self.control.hold(batch[0].raw_headers):
            return [_send(context, 0, batch[0], reply.document({"held": True}))]
        self.control.begin()
        answered = self.pipeline.run(batch)
        self._tell(batch, answered)
        bodies = [_send(context, i, row, one.reply) for i, (row, one) in enumerate(zip(batch, answered, strict=True))]
        self.control.end(len(rows))
        return bodies

    def _tell(self, batch: Sequence[Row], answered: Sequence[Answered]) -> None:
        """To operators: the batch in numbers and, where logs are JSON, each request in a line."""
        clock = self.pipeline.clock
        self.meter.tell(metrics.observe(answered, clock))
        if journal.wanted():
            for row, one in zip(batch, answered, strict=True):
                ids = {"request": row.request_id, "caller": journal.caller_id(row.headers)}
                log.info("%s", journal.line(one, clock, batch=len(answered), **ids))


def _send(context: Context, i: int, row: Row, answer: Reply) -> bytes:
    # The phrase stays empty: a non-ASCII or foreign one would break the worker's protocol.
    context.set_response_status(answer.status, "", i)
    context.set_response_content_type(i, answer.content_type)
    for name, value in answer.headers.items():
        context.set_response_header(i, name, value)
    if caller := journal.caller_id(row.headers):
        context.set_response_header(i, journal.HEADER, caller)
    # A gRPC call has no headers of its own. If it is a stream, TorchServe looks for this one in the answer and ends
    # the worker where it is missing; on an HTTP answer it would break the framing.
    if not row.headers:
        context.set_response_header(i, "ts_stream_next", "false")
    return answer.body


def _quieten() -> None:
    """Drops TorchServe's two log lines a request; its metrics, log lines too, must stay."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not str(record.msg).startswith("Backend received inference"))
