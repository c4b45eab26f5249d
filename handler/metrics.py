"""Metrics of the service.

The worker prints each observation as a line. TorchServe parses it, adds up all workers, and exports the metric to
Prometheus if its metrics configuration (here metrics.yaml) declares it; otherwise it is dropped.

Labels have a small, fixed set of values; nothing that a client sends becomes a label value.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from handler.errors import ErrorCode, RequestError
from handler.reply import Reply
from handler.results import ImageResult

DECODE = "densenet_decode_seconds"
TRANSFORM = "densenet_transform_seconds"
SCORE = "densenet_score_seconds"
TIMES = {"decode": DECODE, "transform": TRANSFORM, "score": SCORE}  # the verbs of pipeline.py that take milliseconds
HANDLE = "densenet_handle_seconds"
REQUESTS = "densenet_requests_total"
IMAGES = "densenet_images_total"
REFUSALS = "densenet_refusals_total"
PROBABILITY = "densenet_best_probability_total"
BATCHES = "densenet_batches_total"
WORKERS = "densenet_workers_started_total"

HISTOGRAMS = (DECODE, TRANSFORM, SCORE, HANDLE)
COUNTERS: Mapping[str, tuple[str, ...]] = {
    REQUESTS: ("protocol", "status"),
    IMAGES: ("outcome",),
    REFUSALS: ("code",),
    PROBABILITY: ("decile",),
    BATCHES: ("requests", "images"),
    WORKERS: (),
}
"""Our counters and the labels of each, in addition to MODEL_LABELS."""
MODEL_LABELS = ("model_name", "model_version")  # the same labels as on TorchServe's ts_inference_requests_total

PROTOCOLS = ("native", "native_json", "kserve_v1", "open_inference", "hugging_face", "page")
STATUSES = tuple(str(status) for status in sorted({200, *(code.status for code in ErrorCode)}))
OUTCOMES = ("recognized", "not_recognized", "refused")
DECILES = tuple(f"0.{tenth}" for tenth in range(10))
_LARGEST_RANGE = 64


@dataclass(frozen=True)
class CompletedRequest:
    """One answered request of a batch: its reply, its images' outcomes, and the request's min_probability."""

    reply: Reply
    outcomes: Sequence[ImageResult | RequestError] = ()
    min_probability: float | None = None


class Clock:
    """Measure the seconds that a batch takes: in total, and by verb."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._started = now()
        self.seconds: dict[str, float] = dict.fromkeys(TIMES, 0.0)

    @property
    def total(self) -> float:
        """Return the seconds since the clock was created."""
        return self._now() - self._started

    @contextmanager
    def measure(self, verb: str) -> Iterator[None]:
        """Add the duration of the block, which handles the whole batch, to a verb's seconds."""
        started = self._now()
        yield
        self.seconds[verb] += self._now() - started

    def move(self, seconds: float, source: str, to: str) -> None:
        """Move seconds that were measured with one verb to the verb that they belong to."""
        self.seconds[source] -= seconds
        self.seconds[to] += seconds


@dataclass(frozen=True)
class Observation:
    """A duration in seconds for a histogram, or the increment of a counter."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


def observe(batch: Sequence[CompletedRequest], clock: Clock) -> list[Observation]:
    """Return a batch's observations.

    Durations are recorded only for batches with images: health probes and bad forms would distort the histograms.
    """
    outcomes = [outcome for completed in batch for outcome in completed.outcomes]
    times = []
    if outcomes:
        times += [Observation(DECODE, clock.seconds["decode"]), Observation(HANDLE, clock.total)]
    if any(isinstance(outcome, ImageResult) for outcome in outcomes):
        times += [Observation(TIMES[verb], clock.seconds[verb]) for verb in ("transform", "score")]
    counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for completed in batch:
        counts[REQUESTS, (completed.reply.protocol, str(completed.reply.status))] += 1
        for name, label in _count_images(completed):
            counts[name, (label,)] += 1
        counts.update((REFUSALS, (code.value,)) for code in error_codes(completed))
    if outcomes:
        counts[BATCHES, (_range(len(batch)), _range(len(outcomes)))] += 1
    return times + [Observation(name, count, labels) for (name, labels), count in counts.items()]


def error_codes(completed: CompletedRequest) -> list[ErrorCode]:
    """Return the code of every rejected image, and the request's own code if no image caused the rejection."""
    codes = [outcome.code for outcome in completed.outcomes if isinstance(outcome, RequestError)]
    if completed.reply.code and completed.reply.code not in codes:
        codes.append(completed.reply.code)
    return codes


def outcome_of(outcome: ImageResult | RequestError, min_probability: float | None) -> str:
    """Return an image's outcome, one of OUTCOMES. NaN counts as refused because it cannot be written as JSON."""
    if isinstance(outcome, RequestError) or math.isnan(outcome.predictions[0].probability):
        return "refused"
    return "recognized" if outcome.recognized(min_probability) else "not_recognized"


def zeros() -> list[Observation]:
    """Return a zero for every series with predictable labels, so that Prometheus sees the first increase."""
    predictable = [(IMAGES, OUTCOMES), (REFUSALS, tuple(code.value for code in ErrorCode)), (PROBABILITY, DECILES)]
    requests = [(protocol, status) for protocol in PROTOCOLS for status in STATUSES]
    return [
        *(Observation(name, 0, (label,)) for name, labels in predictable for label in labels),
        *(Observation(REQUESTS, 0, labels) for labels in requests),
    ]


class Meter:
    """Pass observations to TorchServe through its context's metrics. metrics: None to record nothing."""

    def __init__(self, metrics: Any, model: Mapping[str, str]) -> None:
        # Replace characters in label values that would break the line that TorchServe parses.
        self._model = [re.sub(r"[^\w.-]", "_", model[key], flags=re.ASCII) for key in ("name", "version")]
        self._metrics: dict[str, Any] = {}
        if metrics is not None:
            self._metrics = {name: _declared(metrics, name) for name in (*HISTOGRAMS, *COUNTERS)}
        self.record([*zeros(), Observation(WORKERS, 1)])

    def record(self, observations: Sequence[Observation]) -> None:
        """Print one line per observation, without request ids: Prometheus does not need them, and they are long."""
        if self._metrics:
            for observation in observations:
                # TorchServe cannot parse exponents such as 1e-05.
                value = round(observation.value, 6) if observation.value >= 1e-4 else 0
                self._metrics[observation.name].add_or_update(value, [*self._model, *observation.labels])


def _count_images(completed: CompletedRequest) -> Iterator[tuple[str, str]]:
    for outcome in completed.outcomes:
        label = outcome_of(outcome, completed.min_probability)
        yield IMAGES, label
        if isinstance(outcome, ImageResult) and label != "refused":
            yield PROBABILITY, DECILES[min(int(outcome.predictions[0].probability * 10), 9)]


def _range(count: int) -> str:
    """Return the range of a count, between powers of two: 1, 2-3, 4-7, 8-15 … 64+."""
    if count >= _LARGEST_RANGE:
        return f"{_LARGEST_RANGE}+"
    low = 1 << (count.bit_length() - 1)
    return "1" if low == 1 else f"{low}-{2 * low - 1}"


def _declared(metrics: Any, name: str) -> Any:
    """Return TorchServe's metric. One that metrics.yaml does not declare is created here, but not exported."""
    # Imported here because the handler also runs without TorchServe, and then without metrics.
    from ts.metrics.metric_cache_errors import MetricsCacheKeyError  # type: ignore[import-untyped]
    from ts.metrics.metric_type_enum import MetricTypes  # type: ignore[import-untyped]

    kind, unit = (MetricTypes.HISTOGRAM, "s") if name in HISTOGRAMS else (MetricTypes.COUNTER, "count")
    try:
        return metrics.get_metric(name, kind)
    except MetricsCacheKeyError:
        return metrics.add_metric_to_cache(name, unit, [*MODEL_LABELS, *COUNTERS.get(name, ())], kind)
