"""Metrics: what a batch adds to the numbers, the lines that tell TorchServe so, and a request's line in the journal."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from export import ROOT
from handler import metrics, request_log
from handler.errors import ErrorCode, RequestError
from handler.metrics import Clock, CompletedRequest, Meter, Observation, observe
from handler.payload import Row
from handler.ranking import Prediction
from handler.reply import Reply
from handler.results import ImageResult

DECLARED = yaml.safe_load((ROOT / "metrics.yaml").read_text())
MODEL = {"name": "densenet", "version": "1.0"}
OK, DOCUMENT = Reply(b"", protocol="native"), Reply(b"")


def seen(probability: float) -> ImageResult:
    best = Prediction(0, "n01440764", "tench", probability, 1.0)
    return ImageResult((best,), recognized_by_default=probability >= 0.2)


def refused(code: ErrorCode = ErrorCode.NOT_AN_IMAGE) -> RequestError:
    return RequestError(code, "why")


def clock() -> Clock:
    """Two of the twelve milliseconds of decoding are the crop's."""
    made = Clock(now=iter([0.0, 0.0, 0.012, 0.012, 0.012, 0.012, 0.052, 0.06]).__next__)
    for verb in ("decode", "transform", "score"):
        with made.measure(verb):
            pass
    made.move(0.002, "decode", "transform")
    return made


def added(*batch: CompletedRequest) -> dict[tuple[str, ...], float]:
    return {(one.name, *one.labels): one.value for one in observe(batch, clock())}


def test_a_photo_is_counted_once_everywhere() -> None:
    assert added(CompletedRequest(OK, [seen(0.93)], 0.2)) == {
        (metrics.DECODE,): pytest.approx(0.01),
        (metrics.TRANSFORM,): pytest.approx(0.002),
        (metrics.SCORE,): pytest.approx(0.04),
        (metrics.HANDLE,): pytest.approx(0.06),
        (metrics.REQUESTS, "native", "200"): 1,
        (metrics.IMAGES, "recognized"): 1,
        (metrics.PROBABILITY, "0.9"): 1,
        (metrics.BATCHES, "1", "1"): 1,
    }


def test_a_batch_tells_sums_not_a_line_a_request() -> None:
    batch = [CompletedRequest(OK, [seen(0.5), seen(0.55)], 0.2)] * 3
    lines = added(*batch)
    assert lines[metrics.REQUESTS, "native", "200"] == 3
    assert lines[metrics.IMAGES, "recognized"] == 6
    assert lines[metrics.PROBABILITY, "0.5"] == 6
    assert lines[metrics.BATCHES, "2-3", "4-7"] == 1
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("probability", "outcome", "decile"),
    [
        (0.0, "not_recognized", "0.0"),
        (0.19999, "not_recognized", "0.1"),
        (0.2, "recognized", "0.2"),
        (0.999, "recognized", "0.9"),
        (1.0, "recognized", "0.9"),
    ],
)
def test_outcome_and_decile_of_a_probability(probability: float, outcome: str, decile: str) -> None:
    lines = added(CompletedRequest(OK, [seen(probability)], 0.2))
    assert lines[metrics.IMAGES, outcome] == 1
    assert lines[metrics.PROBABILITY, decile] == 1


def test_an_only_image_that_is_refused_is_one_refusal() -> None:
    reply = Reply(b"", 415, protocol="native", code=ErrorCode.NOT_AN_IMAGE)
    lines = added(CompletedRequest(reply, [refused()]))
    assert lines[metrics.REFUSALS, "not_an_image"] == 1
    assert lines[metrics.IMAGES, "refused"] == 1
    assert lines[metrics.REQUESTS, "native", "415"] == 1
    assert (metrics.SCORE,) not in lines


def test_every_image_has_its_own_reason_and_the_request_its_own() -> None:
    reply = Reply(b"", 413, protocol="native", code=ErrorCode.ANSWER_TOO_LARGE)
    lines = added(CompletedRequest(reply, [refused(), refused(ErrorCode.BROKEN_IMAGE), refused(), seen(0.9)]))
    reasons = {key[1]: value for key, value in lines.items() if key[0] == metrics.REFUSALS}
    assert reasons == {"not_an_image": 2, "broken_image": 1, "answer_too_large": 1}


def test_without_an_image_there_are_no_times() -> None:
    refusal = Reply(b"", 400, protocol="kserve_v1", code=ErrorCode.BAD_JSON)
    assert added(CompletedRequest(DOCUMENT), CompletedRequest(refusal)) == {
        (metrics.REQUESTS, "document", "200"): 1,
        (metrics.REQUESTS, "kserve_v1", "400"): 1,
        (metrics.REFUSALS, "bad_json"): 1,
    }


@pytest.mark.parametrize(
    ("count", "label"), [(1, "1"), (2, "2-3"), (3, "2-3"), (4, "4-7"), (63, "32-63"), (64, "64+"), (1000, "64+")]
)
def test_sizes_are_ranges(count: int, label: str) -> None:
    assert (metrics.BATCHES, "1", label) in added(CompletedRequest(OK, [seen(0.9)] * count))


def declared(kind: str) -> dict[str, list[str]]:
    entries = DECLARED["model_metrics"][kind]
    return {entry["name"]: entry["dimensions"] for entry in entries if entry["name"].startswith("densenet_")}


def test_what_is_told_is_what_metrics_yaml_declares() -> None:
    model = list(metrics.MODEL_LABELS)
    assert declared("histogram") == dict.fromkeys(metrics.HISTOGRAMS, model)
    assert declared("counter") == {name: [*model, *labels] for name, labels in metrics.COUNTERS.items()}


def test_metrics_yaml_has_all_of_torchserves_own(tmp_path: Path) -> None:
    import ts

    theirs = yaml.safe_load((Path(ts.__file__).parent / "configs" / "metrics.yaml").read_text())
    for kind in ("counter", "gauge"):
        assert DECLARED["ts_metrics"][kind] == theirs["ts_metrics"][kind]
    assert [entry for entry in theirs["model_metrics"]["gauge"] if entry["name"] == "PredictionTime"] == [
        *DECLARED["model_metrics"]["gauge"]
    ]


class Cache(MetricsCacheYamlImpl):  # type: ignore[misc]
    """TorchServe's own, with a metrics configuration of one's choice."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.initialize_cache()


def cache(tmp_path: Path, ours: bool) -> Any:
    if ours:
        return Cache(ROOT / "metrics.yaml")
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(DECLARED | {"model_metrics": {"gauge": DECLARED["model_metrics"]["gauge"]}}))
    return Cache(path)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # TorchServe does not close its file
@pytest.mark.parametrize("ours", [True, False])
def test_the_lines_are_those_that_torchserve_reads(
    ours: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    meter = Meter(cache(tmp_path, ours), {"name": "dense:net|,", "version": "1.0 β"})
    zeros = [line for line in caplog.messages if line.startswith("[METRICS]")]
    requests = len(metrics.PROTOCOLS) * len(metrics.STATUSES)
    assert len(zeros) - 1 == len(metrics.zeros()) == len(ErrorCode) + len(metrics.OUTCOMES) + 10 + requests
    assert zeros[-1].startswith("[METRICS]densenet_workers_started_total.Count:1|")
    caplog.clear()
    meter.record([Observation(metrics.IMAGES, 3, ("recognized",)), Observation(metrics.DECODE, 0.0000123)])
    told, model = caplog.messages, "model_name:dense_net__,model_version:1.0__"
    assert told[0].startswith(
        f"[METRICS]densenet_images_total.Count:3|#{model},outcome:recognized|#type:COUNTER|#hostname:"
    )
    assert told[1].startswith(f"[METRICS]densenet_decode_seconds.Seconds:0|#{model}|#type:HISTOGRAM|#hostname:")


def test_an_image_without_a_number_counts_as_refused() -> None:
    reply = Reply(b"", 500, protocol="native", code=ErrorCode.INTERNAL_ERROR)
    lines = added(CompletedRequest(reply, [seen(float("nan"))]))
    assert (lines[metrics.IMAGES, "refused"], lines[metrics.REFUSALS, "internal_error"]) == (1, 1)
    assert not [key for key in lines if key[0] == metrics.PROBABILITY]


def test_without_metrics_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Meter(None, MODEL).record(observe([CompletedRequest(OK, [seen(0.9)])], clock()))
    assert caplog.messages == []


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TestJournal:
    def line(self, answered: CompletedRequest) -> dict[str, Any]:
        row = Row.make({}, {"traceparent": TRACE, "X-Request-Id": "no id"}, "abc")
        text = request_log.line(answered, clock(), row, "1.1", batch=1)
        assert text.startswith('{"time": "')
        return dict(json.loads(text))

    def test_a_line_tells_who_what_and_how_long(self) -> None:
        line = self.line(CompletedRequest(OK, [seen(0.9), refused(), seen(0.1)], 0.2))
        assert line.pop("time").endswith("+00:00")
        assert line == {
            "request": "abc",
            "caller": None,
            "traceparent": TRACE,
            "version": "1.1",
            "protocol": "native",
            "status": 200,
            "images": 3,
            "outcomes": {"recognized": 1, "refused": 1, "not_recognized": 1},
            "classes": ["n01440764", "n01440764"],
            "probabilities": [0.9, 0.1],
            "codes": ["not_an_image"],
            "batch": 1,
            "decode_ms": 10.0,
            "transform_ms": 2.0,
            "score_ms": 40.0,
            "handle_ms": 60.0,
        }

    def test_a_trace_is_taken_as_its_standard_writes_it(self) -> None:
        assert request_log.trace({"traceparent": TRACE}) == TRACE
        for wrong in (
            "",
            TRACE.upper(),
            TRACE + "-0",
            f"ff{TRACE[2:]}",
            f"00-{'0' * 32}{TRACE[35:]}",
            f"{TRACE}\r\nX: 1",
        ):
            assert request_log.trace({"traceparent": wrong}) is None

    @pytest.mark.parametrize("given", ["a", "A.b_c-9", "x" * 128, "019a-5b"])
    @pytest.mark.parametrize("name", ["x-request-id", "x-correlation-id"])
    def test_an_id_of_letters_and_digits_is_taken(self, name: str, given: str) -> None:
        assert request_log.correlation_id({name: given, "accept": "*/*"}) == given

    @pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\r\nb", "a\n", "é", "a:b", "{}", "٣"])
    def test_what_could_break_a_header_is_not(self, given: str) -> None:
        assert request_log.correlation_id({"x-request-id": given}) is None
        assert request_log.correlation_id({"x-request-id": given, "x-correlation-id": "good"}) == "good"

    def test_no_header_no_id(self) -> None:
        assert request_log.correlation_id({"accept": "*/*"}) is None
