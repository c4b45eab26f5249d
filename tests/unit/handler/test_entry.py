"""The handler on TorchServe's own context, without a server: what no client can provoke over HTTP."""

import gc
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ts.context import Context, RequestProcessor

from handler import embedding, explaining, ranking, scoring
from handler.entry import Classifier
from handler.scoring import Scores
from tests.photos import cutouts, encode

PHOTOS = [encode(image) for image in cutouts(3)]


def make_context(folder: Path, rows: int = 1, headers: Mapping[str, Any] | None = None, **config: Any) -> Context:
    manifest = {"model": {"modelVersion": "7.0"}}
    context = Context("densenet", str(folder), manifest, rows, None, "0.12.0", model_yaml_config={"handler": config})
    context.request_processor = [RequestProcessor(dict(headers or {})) for _ in range(rows)]
    context.request_ids = {i: f"request-{i}" for i in range(rows)}
    return context


@pytest.fixture(scope="module")
def classifier(exported: Path) -> Classifier:
    classifier = Classifier()
    classifier.initialize(make_context(exported))
    return classifier


def ask(classifier: Classifier, exported: Path, *contents: bytes) -> list[tuple[int, Any]]:
    context = make_context(exported, len(contents))
    bodies = classifier.handle([{"body": bytearray(content)} for content in contents], context)
    assert [type(body) for body in bodies] == [bytes] * len(contents)
    types = {context.get_response_content_type(i) for i in range(len(contents))}
    assert types == {"application/json"}
    return [(context.get_response_status(i)[0], json.loads(body)) for i, body in enumerate(bodies)]


def test_an_unexpected_exception_costs_only_its_own_row(
    classifier: Classifier, exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = classifier.pipeline.decoder.decode

    def decode(content: bytes, **options: Any) -> Any:
        if content == PHOTOS[1]:
            raise ZeroDivisionError("a defect\n[PID]99999999999")
        return original(content, **options)

    monkeypatch.setattr(classifier.pipeline.decoder, "decode", decode)
    statuses = ask(classifier, exported, *PHOTOS)
    assert [status for status, _ in statuses] == [200, 500, 200]
    assert statuses[1][1]["error"]["code"] == "internal_error"
    assert "defect" not in statuses[1][1]["error"]["message"]
    assert "request-1" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "\n[PID]" not in caplog.text


@pytest.mark.parametrize("raised", [MemoryError(), RuntimeError("CUDA"), KeyError(1), RecursionError()])
def test_a_pass_that_fails_together_is_tried_image_by_image(
    classifier: Classifier, exported: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    expected = ask(classifier, exported, *PHOTOS)
    original = classifier.pipeline.score_batch
    culprit = original(torch.zeros(1, 3, 224, 224))

    def score(batch: torch.Tensor) -> Scores:
        if len(batch) > 1:
            raise raised
        return original(batch)

    monkeypatch.setattr(classifier.pipeline, "score_batch", score)
    answers = ask(classifier, exported, *PHOTOS)
    assert [answer["class_id"] for _, answer in answers] == [answer["class_id"] for _, answer in expected]
    assert culprit.logits.shape == (1, 1000)


def test_one_image_that_fails_in_the_network_is_logged_under_its_own_request(
    classifier: Classifier, exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original, alone = classifier.pipeline.score_batch, []

    def score(batch: torch.Tensor) -> Scores:
        alone.extend([batch] if len(batch) == 1 else [])
        if len(batch) > 1 or len(alone) == 2:
            raise ZeroDivisionError("a defect")
        return original(batch)

    monkeypatch.setattr(classifier.pipeline, "score_batch", score)
    assert [status for status, _ in ask(classifier, exported, *PHOTOS)] == [200, 500, 200]
    (told,) = (record.getMessage() for record in caplog.records if "Traceback" in record.getMessage())
    assert told.startswith("request request-1: ")
    assert "scoring a batch of 3 images failed" in caplog.text


def test_logits_that_are_no_numbers_are_a_failure_not_broken_json(
    classifier: Classifier, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = classifier.pipeline.score_batch

    def score(batch: torch.Tensor) -> Scores:
        scores = original(batch)
        logits = scores.logits.clone()
        logits[0] = float("nan")
        return Scores(logits, scores.activations)

    monkeypatch.setattr(classifier.pipeline, "score_batch", score)
    assert [status for status, _ in ask(classifier, exported, *PHOTOS)] == [500, 200, 200]


def test_only_a_request_for_an_embedding_computes_one(
    classifier: Classifier, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[torch.Tensor] = []
    original = embedding.embed
    monkeypatch.setattr(embedding, "embed", lambda *of: embedded.append(of[0]) or original(*of))
    context = make_context(exported, 3)
    context.request_processor[1] = RequestProcessor({"X-Embedding": "base64"})
    bodies = classifier.handle([{"body": bytearray(photo)} for photo in PHOTOS], context)
    assert ["embedding" in json.loads(body) for body in bodies] == [False, True, False]
    assert [tuple(activations.shape) for activations in embedded] == [(49, embedding.WIDTH)]


@pytest.mark.parametrize("content", [PHOTOS[0], PHOTOS[0][:1000], b"no photo"], ids=["photo", "truncated", "text"])
def test_nothing_of_a_request_waits_for_the_garbage_collector(
    classifier: Classifier, exported: Path, content: bytes
) -> None:
    """Tensors that do would raise a worker's memory by tens of megabytes."""
    context, rows = make_context(exported), [{"body": bytearray(content)}]
    classifier.handle(rows, context)  # first calls fill caches
    gc.collect()
    gc.disable()
    try:
        classifier.handle(rows, context)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_all_rows_go_through_the_network_together(
    classifier: Classifier, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    original = classifier.pipeline.score_batch
    monkeypatch.setattr(
        classifier.pipeline, "score_batch", lambda batch: (sizes.append(len(batch)), original(batch))[1]
    )
    ask(classifier, exported, PHOTOS[0], b"no image", PHOTOS[1], PHOTOS[2])
    assert sizes == [3]


@pytest.mark.parametrize(
    "row", [{}, {"body": None}, {"body": 7}, {"x": {}}, {"body": {"instances": [None]}}, {"data": ""}]
)
def test_no_row_however_odd_raises(classifier: Classifier, exported: Path, row: dict[str, object]) -> None:
    context = make_context(exported)
    (body,) = classifier.handle([row], context)
    document = json.loads(body)
    if "predictions" in document:
        assert document["predictions"][0]["success"] is False
    else:
        assert document["success"] is False
        assert 400 <= context.get_response_status(0)[0] < 500


def explained(classifier: Classifier, exported: Path, *contents: bytes, **headers: str) -> list[tuple[int, Any]]:
    """Every other row wants an explanation."""
    context = make_context(exported, len(contents))
    for i in range(0, len(contents), 2):
        context.request_processor[i] = RequestProcessor({"explain": "True", "url_path": "", **headers})
    bodies = classifier.handle([{"body": bytearray(content)} for content in contents], context)
    return [(context.get_response_status(i)[0], json.loads(body)) for i, body in enumerate(bodies)]


def test_predictions_and_explanations_go_through_the_network_together(
    classifier: Classifier, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, original = [], classifier.pipeline.score_batch
    monkeypatch.setattr(
        classifier.pipeline, "score_batch", lambda batch: (sizes.append(len(batch)), original(batch))[1]
    )
    answers = explained(classifier, exported, *PHOTOS, **{"x-target": "7"})
    assert sizes == [3]
    assert [answer.get("explanations", [{}])[0].get("class_id") for _, answer in answers] == [
        *("n01514668", None, "n01514668")
    ]


def test_a_defect_of_explaining_costs_only_the_row_that_asked(
    classifier: Classifier, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "to_png", lambda picture: 1 / 0)
    assert [status for status, _ in explained(classifier, exported, *PHOTOS)] == [500, 200, 500]


def test_what_is_no_class_is_refused_before_anything_is_decoded(
    classifier: Classifier, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier.pipeline.decoder, "decode", lambda content, **options: 1 / 0)
    ((status, answer),) = explained(classifier, exported, PHOTOS[0], **{"x-target": "unicorn"})
    assert (status, answer["error"]["code"]) == (400, "bad_option")


def test_too_many_pictures_are_refused_before_anything_is_decoded(
    classifier: Classifier, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier.pipeline.decoder, "decode", lambda content, **options: 1 / 0)
    ((status, answer),) = explained(classifier, exported, PHOTOS[0], **{"x-target": "0,1,2,3,4,5,6,7,8,9"})
    assert (status, answer["error"]["code"]) == (413, "answer_too_large")


def test_headers_that_are_objects_do_no_harm(classifier: Classifier, exported: Path) -> None:
    names = ("accept", "x-top-k", "content-type", "content-length", "describe")
    context = make_context(exported, headers={name: {"content-type": "image/png"} for name in names})
    (body,) = classifier.handle([{"body": bytearray(PHOTOS[0])}], context)
    assert json.loads(body)["success"] is True


def test_torchserves_own_question_is_answered_with_the_model_card(classifier: Classifier, exported: Path) -> None:
    context = make_context(exported, headers={"describe": "True"})
    card = json.loads(classifier.handle([{}], context)[0])
    assert card["architecture"] == "DenseNet-121"
    assert card["model"]["version"] == "7.0"


@pytest.fixture
def of_five(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export of five classes whose network cannot tell one from another, so that each gets 0.2."""
    folder = Path(shutil.copytree(exported, tmp_path / "five"))
    (folder / "index_to_name.json").write_text('["cat", "dog", "fox", "owl", "rat"]')
    monkeypatch.setattr(scoring, "load", lambda *_, **__: None)
    logits, activations = torch.zeros(1, 5), torch.zeros(1, 49, 1024)
    monkeypatch.setattr(scoring, "score", lambda *_, **__: Scores(logits, activations))
    return folder


def test_a_small_model_does_not_recognize_what_it_cannot_tell_and_its_card_says_from_where(of_five: Path) -> None:
    classifier = Classifier()
    classifier.initialize(make_context(of_five))
    ((_, answer),) = ask(classifier, of_five, PHOTOS[0])
    assert (answer["predictions"][0]["probability"], answer["recognized"]) == (pytest.approx(0.2), False)
    card = json.loads(classifier.handle([{}], make_context(of_five, headers={"describe": "True"}))[0])
    assert card["options"]["min_probability"] == 0.45
    page = classifier.handle([{}], make_context(of_five, headers={"accept": "text/html"}))[0].decode()
    assert "45.0%" in page


def test_a_request_may_still_choose_any_threshold(of_five: Path) -> None:
    classifier = Classifier()
    classifier.initialize(make_context(of_five))
    context = make_context(of_five, headers={"x-min-probability": "0"})
    assert json.loads(classifier.handle([{"body": bytearray(PHOTOS[0])}], context)[0])["recognized"] is True


class TestLoading:
    """A worker that cannot serve rightly does not start, and says why."""

    @pytest.fixture
    def folder(self, exported: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(exported, tmp_path / "model"))

    def test_a_network_that_is_not_the_cards(self, folder: Path) -> None:
        with (folder / "model.pt").open("ab") as network:
            network.write(b"\0")
        with pytest.raises(ValueError, match="not the file that the model card describes"):
            Classifier().initialize(make_context(folder))

    def test_a_class_index_of_another_length(self, folder: Path) -> None:
        (folder / "index_to_name.json").write_text('["cat", "dog"]')
        with pytest.raises(ValueError, match=r"1000 outputs, but index_to_name\.json has 2 classes"):
            Classifier().initialize(make_context(folder))

    def test_a_setting_that_does_not_exist(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"unknown setting handler\.topk; valid settings: top_k"):
            Classifier().initialize(make_context(folder, topk=3))

    def test_a_threshold_below_chance(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"min_probability must be above 0\.001, .* 1000 classes, not 0\.0005"):
            Classifier().initialize(make_context(folder, min_probability=0.0005))

    @pytest.mark.parametrize("threads", [2, 1])
    def test_threads_are_what_the_settings_say(
        self, threads: int, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []

        def score(*args: Any, **options: Any) -> Scores:
            seen.append(options["threads"])
            return original(*args, **options)

        classifier, original = Classifier(), scoring.score
        classifier.initialize(make_context(folder, threads=threads))
        monkeypatch.setattr(scoring, "score", score)
        assert ask(classifier, folder, PHOTOS[0])[0][0] == 200
        assert seen == [threads]

    def test_untrained_weights_are_warned_of(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        card = json.loads((folder / "model_card.json").read_text())
        card["weights"]["name"] = "untrained"
        (folder / "model_card.json").write_text(json.dumps(card))
        with caplog.at_level(logging.INFO):
            Classifier().initialize(make_context(folder))
        assert "UNTRAINED" in caplog.text


def test_the_class_index_of_an_export_is_read_as_it_was_written(classifier: Classifier, exported: Path) -> None:
    assert ranking.load_class_index(exported / "index_to_name.json") == classifier.pipeline.classes
