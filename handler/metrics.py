"""What the service tells of itself in numbers. Each is a line that TorchServe reads off the worker, adds up over all
workers, and shows to Prometheus if its metrics configuration (here metrics.yaml) declares it; else it is dropped.

Labels have few and fixed values. Nothing that a client sends becomes one.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from handler.failures import Code, Failure
from handler.reply import Reply
from handler.request import Outcome, Seen

VERBS = ("decode", "transform", "score", "rank", "reply")  # of pipeline.py; what reading takes is in none
TIMES = {verb: f"densenet_{verb}_seconds" for verb in VERBS}
DECODE, TRANSFORM, SCORE = (TIMES[verb] for verb in ("decode", "transform", "score"))
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
"""Our counters, and the labels of each beside those of the model."""
MODEL_LABELS = ("model_name", "model_version")  # as TorchServe's own ts_inference_requests_total has them

PROTOCOLS = ("native", "native_json", "kserve_v1", "open_inference", "hugging_face", "page")
STATUSES = tuple(str(status) for status in sorted({200, *(code.status for code in Code)}))
OUTCOMES = ("recognized", "not_recognized", "refused")
DECILES = tuple(f"0.{tenth}" for tenth in range(10))
_LARGEST_RANGE = 64


@dataclass(frozen=True)
class Answered:
    """One request of a batch: its answer, what became of its images, and from where on these count as recognized."""

    reply: Reply
    outcomes: Sequence[Outcome] = ()
    min_probability: float = 0.0


class Clock:
    """Seconds that a batch takes: in all since the clock was made, and by verb."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._started = now()
        self.seconds: dict[str, float] = dict.fromkeys(VERBS, 0.0)

    @property
    def whole(self) -> float:
        """Since the start."""
        return self._now() - self._started

    @contextmanager
    def measure(self, verb: str) -> Iterator[None]:
        """Around a verb's work on the whole batch."""
        started = self._now()
        yield
        self.seconds[verb] += self._now() - started

    def move(self, seconds: float, away_from: str, to: str) -> None:
        """What was measured with one verb and belongs to another."""
        self.seconds[away_from] -= seconds
        self.seconds[to] += seconds


@dataclass(frozen=True)
class Observation:
    """A time for a histogram, or how much a counter grows."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


def observe(batch: Sequence[Answered], clock: Clock) -> list[Observation]:
    """What a batch adds. Times are those of batches with an image: a probe or a bad form would only blur them."""
    outcomes = [outcome for answered in batch for outcome in answered.outcomes]
    times = []
    if outcomes:
        times += [Observation(DECODE, clock.seconds["decode"]), Observation(HANDLE, clock.whole)]
    if any(isinstance(outcome, Seen) for outcome in outcomes):
        times += [Observation(TIMES[verb], clock.seconds[verb]) for verb in ("transform", "score")]
    counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for answered in batch:
        counts[REQUESTS, (answered.reply.protocol, str(answered.reply.status))] += 1
        for name, label in _of_images(answered):
            counts[name, (label,)] += 1
        counts.update((REFUSALS, (code.value,)) for code in reasons(answered))
    if outcomes:
        counts[BATCHES, (_range(len(batch)), _range(len(outcomes)))] += 1
    return times + [Observation(name, count, labels) for (name, labels), count in counts.items()]


def reasons(answered: Answered) -> list[Code]:
    """Why something was refused: a code for every image, and one for the request where none of them is the cause."""
    codes = [outcome.code for outcome in answered.outcomes if isinstance(outcome, Failure)]
    if answered.reply.code and answered.reply.code not in codes:
        codes.append(answered.reply.code)
    return codes


def outcome_of(outcome: Outcome, min_probability: float) -> str:
    """One of OUTCOMES. Of what is no number no answer can be made."""
    if isinstance(outcome, Failure) or math.isnan(outcome.predictions[0].probability):
        return "refused"
    return "recognized" if outcome.recognized(min_probability) else "not_recognized"


def zeros() -> list[Observation]:
    """Every series whose labels are known beforehand, so that its first increase is seen as one."""
    known = [(IMAGES, OUTCOMES), (REFUSALS, tuple(code.value for code in Code)), (PROBABILITY, DECILES)]
    requests = [(protocol, status) for protocol in PROTOCOLS for status in STATUSES]
    return [
        *(Observation(name, 0, (label,)) for name, labels in known for label in labels),
        *(Observation(REQUESTS, 0, labels) for labels in requests),
    ]


class Meter:
    """Tells TorchServe, through the metrics of its context; where there are none, nobody."""

    def __init__(self, metrics: Any, model: Mapping[str, str]) -> None:
        # What would break TorchServe's line cannot be in a label.
        self._model = [re.sub(r"[^\w.-]", "_", model[key], flags=re.ASCII) for key in ("name", "version")]
        self._metrics: dict[str, Any] = {}
        if metrics is not None:
            self._metrics = {name: _declared(metrics, name) for name in (*HISTOGRAMS, *COUNTERS)}
        self.tell([*zeros(), Observation(WORKERS, 1)])

    def tell(self, observations: Sequence[Observation]) -> None:
        """One line each. No request ids: Prometheus would not have them, and they would be most of the line."""
        if self._metrics:
            for one in observations:
                # TorchServe reads no exponent such as 1e-05.
                value = round(one.value, 6) if one.value >= 1e-4 else 0
                self._metrics[one.name].add_or_update(value, [*self._model, *one.labels])


def _of_images(answered: Answered) -> Iterator[tuple[str, str]]:
    for outcome in answered.outcomes:
        became = outcome_of(outcome, answered.min_probability)
        yield IMAGES, became
        if isinstance(outcome, Seen) and became != "refused":
            yield PROBABILITY, DECILES[min(int(outcome.predictions[0].probability * 10), 9)]


def _range(count: int) -> str:
    """1, 2-3, 4-7, 8-15 …: a power of two up to the next."""
    if count >= _LARGEST_RANGE:
        return f"{_LARGEST_RANGE}+"
    low = 1 << (count.bit_length() - 1)
    return "1" if low == 1 else f"{low}-{2 * low - 1}"


def _declared(metrics: Any, name: str) -> Any:
    """TorchServe's metric, which its configuration declares, or which is made here and told in vain."""
    # Who has metrics is TorchServe; the handler runs without it, too.
    from ts.metrics.metric_cache_errors import MetricsCacheKeyError  # type: ignore[import-untyped]
    from ts.metrics.metric_type_enum import MetricTypes  # type: ignore[import-untyped]

    kind, unit = (MetricTypes.HISTOGRAM, "s") if name in HISTOGRAMS else (MetricTypes.COUNTER, "count")
    try:
        return metrics.get_metric(name, kind)
    except MetricsCacheKeyError:
        return metrics.add_metric_to_cache(name, unit, [*MODEL_LABELS, *COUNTERS.get(name, ())], kind)
