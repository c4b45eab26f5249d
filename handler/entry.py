"""The entry point for TorchServe: the only module that handles its rows, its context and its responses.

TorchServe uses the only class in this module as the handler, so do not add a second one.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from handler import cores, fair_share, hardware, metrics, ranking, repeated_parts, reply, request_log, scoring
from handler.calibration import Calibration
from handler.context import Context
from handler.cropping import CROP
from handler.decoder import Decoder
from handler.metrics import CompletedRequest
from handler.page import Page
from handler.payload import Row
from handler.pipeline import Pipeline
from handler.reply import Reply
from handler.routing import Router
from handler.settings import AUTO, Settings
from handler.threads import Threads
from handler.worker_control import Control

log = logging.getLogger(__name__)


class Classifier:
    """TorchServe's handler: TorchServe calls initialize once, then handle for every batch."""

    def initialize(self, context: Context) -> None:
        """Load everything that requests need.

        Raises:
            Exception: the archive or the machine is unsuitable; the worker then does not start.
        """
        folder = Path(context.system_properties["model_dir"])
        _drop_per_request_logs()
        repeated_parts.keep_all()
        card: dict[str, Any] = json.loads((folder / "model_card.json").read_text(encoding="utf-8"))
        classes = ranking.load_class_index(folder / "index_to_name.json")
        calibration = Calibration.from_card(card)
        default = calibration.min_probability if calibration else None
        settings = Settings.from_config(context.model_yaml_config, len(classes), default)
        if calibration and settings.min_probability != calibration.min_probability:
            calibration = calibration.with_min_probability(settings.min_probability)
        hardware.check(card["precision"])
        decoder = Decoder(settings.decode_memory)  # the process starts in the background while the network loads
        device = hardware.device(card["precision"], context.system_properties.get("gpu_id"))
        fixed = 1 if settings.threads == AUTO or device != scoring.CPU else int(settings.threads)
        network = scoring.load(folder / "model.pt", sha256=card["network"]["sha256"], threads=fixed, device=device)
        outputs = scoring.score(network, torch.zeros(1, 3, CROP, CROP), chunk=1).logits.shape[1]
        if outputs != len(classes):
            raise ValueError(f"the network has {outputs} outputs, but index_to_name.json has {len(classes)} classes")
        decoder.wait_until_ready()
        model = {
            "name": context.model_name,
            "version": str(context.manifest["model"]["modelVersion"]),
            "weights": card["weights"]["name"],
            "precision": card["precision"],
        }
        self.version = model["version"]
        self.control = Control.from_environment(self.version)
        threads: Threads | int = fixed
        if settings.threads == AUTO and self.control.is_recorded and device == scoring.CPU:
            threads = Threads(cores.physical(), self.control.count_busy)
        self.meter = metrics.Meter(context.metrics, model)
        router = Router(
            page=Page(card, model, settings, calibration),
            classes=classes,
            settings=settings,
            card=card | {"model": model, "options": vars(settings)},
            readable_card=folder / reply.MODEL_CARD,
            draining=lambda: self.control.draining,
        )
        batch_seconds = fair_share.batch_seconds(context.model_yaml_config)
        described = {**model, "calibrated": True} if calibration else model
        self.pipeline = Pipeline(
            settings, classes, network, decoder, router, described, batch_seconds, calibration, threads
        )
        log.info("ready: %s, torch %s, threads: %s", model, torch.__version__, settings.threads)
        if model["weights"] == "untrained":
            log.warning("THE WEIGHTS ARE UNTRAINED: every answer is meaningless")

    def handle(self, rows: Sequence[Mapping[str, object]], context: Context) -> list[bytes]:
        """Answer a batch: return one response body per row, in order. Never raises because of a row's content."""
        batch = [
            Row.make(entries, context.get_all_request_header(i), context.get_request_id(i))
            for i, entries in enumerate(rows)
        ]
        if len(batch) == 1 and self.control.pause(batch[0].raw_headers):
            return [_send(context, 0, batch[0], reply.document({"held": True}))]
        self.control.begin()
        completed = self.pipeline.run(batch)
        self._report(batch, completed)
        pairs = zip(batch, completed, strict=True)
        bodies = [_send(context, i, row, request.reply) for i, (row, request) in enumerate(pairs)]
        self.control.end(len(rows))
        return bodies

    def _report(self, batch: Sequence[Row], completed: Sequence[CompletedRequest]) -> None:
        """Record the batch's metrics and, if logs are JSON, log one line per request."""
        clock = self.pipeline.clock
        self.meter.record(metrics.observe(completed, clock))
        if request_log.is_enabled():
            for row, request in zip(batch, completed, strict=True):
                log.info("%s", request_log.line(request, clock, row, self.version, batch=len(completed)))


def _send(context: Context, i: int, row: Row, answer: Reply) -> bytes:
    # The reason phrase stays empty: non-ASCII text in it would break the worker's protocol.
    context.set_response_status(answer.status, "", i)
    context.set_response_content_type(i, answer.content_type)
    for name, value in answer.headers.items():
        context.set_response_header(i, name, value)
    if caller := request_log.correlation_id(row.headers):
        context.set_response_header(i, request_log.HEADER, caller)
    if trace := request_log.trace(row.headers):
        context.set_response_header(i, request_log.TRACE, trace)
    # gRPC calls have no request headers. For a gRPC stream, TorchServe expects this response header, and kills the
    # worker if it is missing. In an HTTP response the header would break the framing.
    if not row.headers:
        context.set_response_header(i, "ts_stream_next", "false")
    return answer.body


def _drop_per_request_logs() -> None:
    """Drop the two lines that TorchServe logs per request. Its metrics are log lines, too, and must stay."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not str(record.msg).startswith("Backend received inference"))
