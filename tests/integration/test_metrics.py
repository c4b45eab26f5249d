"""What TorchServe's metrics port shows after known requests to the real service: sent = counted."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

import pytest
import requests

from handler import metrics
from handler.errors import ErrorCode
from tests.integration.conftest import Server, Starter
from tests.integration.truth import TEXTS
from tests.photos import cutouts, encode

PHOTOS = [encode(image) for image in cutouts(4)]
_SERIES = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)",?')
_MODEL = {"model_name": "densenet", "model_version": "1.0"}

Series = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Scrape:
    """One look at /metrics: a value for every series, the host's name left out of its labels."""

    values: Mapping[Series, float]

    @classmethod
    def of(cls, server: Server) -> "Scrape":
        """Once nothing moves any more: an answer overtakes the lines of which the worker's numbers are read."""
        for _ in range(100):
            before = cls._once(server)
            time.sleep(0.1)
            now = cls._once(server)
            if not [name for name, _ in (now - before).values if name.startswith("densenet_")]:
                return now
        raise AssertionError("the numbers do not come to rest")

    @classmethod
    def _once(cls, server: Server) -> "Scrape":
        address = server.service.management.rsplit(":", 1)
        text = requests.get(f"{address[0]}:{int(address[1]) + 1}/metrics", timeout=10).text
        found = [match for line in text.splitlines() if (match := _SERIES.fullmatch(line))]
        assert len(found) == sum(not line.startswith("#") for line in text.splitlines())
        labels = [dict(_LABEL.findall(match[2] or "")) for match in found]
        for one in labels:
            one.pop("Hostname", one.pop("hostname", None))
        pairs = zip(found, labels, strict=True)
        return cls({(match[1], frozenset(one.items())): float(match[3]) for match, one in pairs})

    def of_name(self, name: str) -> dict[tuple[str, ...], float]:
        """A counter's values by its own labels, those of the model left out; or a histogram's parts."""
        keys = metrics.COUNTERS.get(name, ())
        found = {}
        for (series, labels), value in self.values.items():
            if series == name:
                own = dict(labels)
                # TorchServe's own have the version that the request's address names.
                model = _MODEL if not name.startswith("ts_") else {**_MODEL, "model_version": "default"}
                assert {key: own.pop(key) for key in model} == model
                assert set(own) == set(keys)
                found[tuple(own[key] for key in keys)] = value
        return found

    def __sub__(self, other: "Scrape") -> "Scrape":
        """What was added since, where anything was."""
        added = {key: value - other.values.get(key, 0) for key, value in self.values.items()}
        return Scrape({key: value for key, value in added.items() if value})


def best(answer: Any) -> float:
    """The probability of an answer's best class."""
    return float(answer["predictions"][0]["probability"])


@pytest.fixture(scope="module")
def alone(start: Starter) -> Server:
    """A service whose every request is one of this module's."""
    return start(workers=1, batchSize=8, maxBatchDelay=300)


def test_every_series_that_can_be_known_is_there_from_the_start(alone: Server) -> None:
    shown = Scrape.of(alone)
    assert set(shown.of_name(metrics.IMAGES)) == {(outcome,) for outcome in metrics.OUTCOMES}
    assert set(shown.of_name(metrics.REFUSALS)) == {(code.value,) for code in ErrorCode}
    assert set(shown.of_name(metrics.PROBABILITY)) == {(decile,) for decile in metrics.DECILES}
    assert shown.of_name(metrics.WORKERS) == {(): 1}
    known = {(protocol, status) for protocol in metrics.PROTOCOLS for status in metrics.STATUSES}
    assert set(shown.of_name(metrics.REQUESTS)) == known


def test_one_photo_after_another(alone: Server) -> None:
    before = Scrape.of(alone)
    answers = [alone.send(photo).json() for photo in PHOTOS]
    added = Scrape.of(alone) - before
    assert added.of_name(metrics.REQUESTS) == {("native", "200"): 4}
    expected = Counter("recognized" if answer["recognized"] else "not_recognized" for answer in answers)
    assert added.of_name(metrics.IMAGES) == {(outcome,): count for outcome, count in expected.items()}
    deciles = Counter(metrics.DECILES[min(int(best(answer) * 10), 9)] for answer in answers)
    assert added.of_name(metrics.PROBABILITY) == {(decile,): count for decile, count in deciles.items()}
    assert added.of_name(metrics.BATCHES) == {("1", "1"): 4}
    assert added.of_name(metrics.REFUSALS) == {}
    assert added.of_name("ts_inference_requests_total") == {(): 4}
    times = {name: added.of_name(f"{name}_sum")[()] for name in metrics.HISTOGRAMS}
    assert [added.of_name(f"{name}_count") for name in metrics.HISTOGRAMS] == [{(): 4}] * len(metrics.HISTOGRAMS)
    assert all(0 < seconds < 60 for seconds in times.values())
    assert times[metrics.DECODE] + times[metrics.TRANSFORM] + times[metrics.SCORE] <= times[metrics.HANDLE]


def test_a_threshold_of_the_requests_own_decides_its_outcome(alone: Server) -> None:
    before = Scrape.of(alone)
    for share in ("0", "0", "1"):
        alone.send(PHOTOS[0], **{"X-Min-Probability": share})
    assert (Scrape.of(alone) - before).of_name(metrics.IMAGES) == {("recognized",): 2, ("not_recognized",): 1}


def test_refusals_of_requests_and_of_images_have_their_codes(alone: Server) -> None:
    before = Scrape.of(alone)
    json = {"Content-Type": "application/json"}
    statuses = [
        alone.send(b"some text").status_code,
        alone.send(PHOTOS[0][:9000]).status_code,
        alone.send(PHOTOS[0], **{"X-Top-K": "many"}).status_code,
        alone.post(data=b'{"instances": [', headers=json).status_code,
        alone.post(data=b'{"inputs": "?"}', headers=json).status_code,
        alone.post(files={"a": PHOTOS[0], "b": b"some text", "c": b"%PDF-1.4 and so on"}).status_code,
        requests.get(alone.url, timeout=60).status_code,
    ]
    assert statuses == [415, 422, 400, 400, 400, 200, 400]
    added = Scrape.of(alone) - before
    assert added.of_name(metrics.REFUSALS) == {
        ("not_an_image",): 2,
        ("broken_image",): 1,
        ("bad_option",): 1,
        ("bad_json",): 1,
        ("bad_base64",): 1,
        ("unsupported_format",): 1,
        ("no_image",): 1,
    }
    assert added.of_name(metrics.REQUESTS) == {
        ("native", "200"): 1,
        ("native", "400"): 3,
        ("native", "415"): 1,
        ("native", "422"): 1,
        ("hugging_face", "400"): 1,
    }
    assert sum(added.of_name(metrics.IMAGES).values()) == 5
    assert added.of_name(metrics.IMAGES)["refused",] == 4


def test_every_protocol_has_its_name(alone: Server) -> None:
    before = Scrape.of(alone)
    page = {"Accept": "text/html,*/*;q=0.8"}
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [TEXTS[0]]}
    base = alone.service.inference
    statuses = [
        requests.post(url, json=body, timeout=60).status_code
        for url, body in (
            (alone.url, {"instances": [{"b64": TEXTS[0]}]}),
            (alone.url, {"inputs": TEXTS[0]}),
            (f"{base}/v1/models/densenet:predict", {"instances": [{"b64": TEXTS[0]}]}),
            (f"{base}/v2/models/densenet/infer", {"inputs": [tensor]}),
        )
    ]
    statuses.append(alone.post(files={"file": PHOTOS[0]}, headers=page).status_code)
    statuses.append(requests.get(alone.url, headers=page, timeout=60).status_code)
    assert statuses == [200] * 6
    added = Scrape.of(alone) - before
    names = {*metrics.PROTOCOLS, "document"} - {"native"}
    assert added.of_name(metrics.REQUESTS) == {(name, "200"): 1 for name in names}
    assert sum(added.of_name(metrics.IMAGES).values()) == 5
    assert added.of_name(f"{metrics.HANDLE}_count") == {(): 5}


def test_in_batches_every_request_and_image_counts_and_every_batch_once(alone: Server) -> None:
    before = Scrape.of(alone)
    barrier = Barrier(6)

    def send(i: int) -> requests.Response:
        barrier.wait()
        if i == 5:
            return alone.send(b"some text")
        return alone.post(files={"a": PHOTOS[i % 4], "b": PHOTOS[(i + 1) % 4]})

    with ThreadPoolExecutor(6) as clients:
        statuses = sorted(response.status_code for response in clients.map(send, range(6)))
    assert statuses == [200] * 5 + [415]
    added = Scrape.of(alone) - before
    assert added.of_name(metrics.REQUESTS) == {("native", "200"): 5, ("native", "415"): 1}
    assert added.of_name(metrics.REFUSALS) == {("not_an_image",): 1}
    assert sum(added.of_name(metrics.IMAGES).values()) == 11
    assert sum(added.of_name(metrics.PROBABILITY).values()) == 10
    batches = added.of_name(metrics.BATCHES)
    assert any(requests != "1" for requests, _ in batches)
    (handled,) = added.of_name(f"{metrics.HANDLE}_count").values()
    assert sum(batches.values()) == handled < 6


def test_workers_count_together(start: Starter) -> None:
    server = start(workers=2)  # of its own: clients that left another one may have requests there that still count
    before = Scrape.of(server)
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(server.send, PHOTOS * 3))
    added = Scrape.of(server) - before
    assert added.of_name(metrics.REQUESTS) == {("native", "200"): 12}
    assert sum(added.of_name(metrics.IMAGES).values()) == 12
    assert added.of_name("ts_inference_requests_total") == {(): 12}


def test_what_a_client_sends_becomes_no_label(alone: Server) -> None:
    alone.post(files={"unheard-of": PHOTOS[0]}, headers={"X-Request-Id": "unheard-of"})
    alone.send(PHOTOS[0], **{"X-Top-K": "unheard-of", "User-Agent": "unheard-of", "Accept": "unheard-of"})
    requests.get(f"{alone.service.inference}/predictions/unheard-of", timeout=60)
    labels = {value for _, pairs in Scrape.of(alone).values for _, value in pairs}
    assert labels
    assert not [label for label in labels if "unheard-of" in label]


@pytest.mark.parametrize("header", ["X-Request-Id", "X-Correlation-Id"])
def test_the_callers_request_id_comes_back(alone: Server, header: str) -> None:
    answer = alone.send(PHOTOS[0], **{header: "caller-1.a_B"})
    assert answer.headers["X-Correlation-Id"] == "caller-1.a_B"
    assert answer.headers["x-request-id"] != "caller-1.a_B"
    refused = alone.send(b"some text", **{header: "caller-2"})
    assert (refused.status_code, refused.headers["X-Correlation-Id"]) == (415, "caller-2")


@pytest.mark.parametrize("given", ["with blank", "x" * 129, "a:b", "<b>", "ü", ""])
def test_an_id_that_could_do_harm_does_not(alone: Server, given: str) -> None:
    answer = alone.send(PHOTOS[0], **{"X-Request-Id": given.encode("latin-1")})  # type: ignore[arg-type]
    assert answer.status_code == 200
    assert "X-Correlation-Id" not in answer.headers
