"""The report: every number in the document, every foreign word escaped on the page, and the plots."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from densenet.evaluation import agreement, metrics, page, plots, report
from densenet.evaluation.answers import Outcome
from densenet.evaluation.dataset import LabelledSet
from densenet.evaluation.metrics import Scores
from densenet.evaluation.report import Evaluation, Reference
from export import ROOT

EVIL = "<script>alert('&\"$x$')</script>"
NAMES = {"c0": "crane", "c1": "crane", "c2": EVIL, "c3": "小猫\0"}
MODEL = {"name": "densenet", "version": "1.0", "weights": f"{EVIL}.pth", "precision": "fp32"}


def said(*classes: str, best: float = 0.8) -> Outcome:
    return Outcome(classes, tuple(best / 2**i for i in range(len(classes))), best >= 0.2)


OUTCOMES = (
    said("c0", "c1"),
    said("c1", "c0", best=0.1),
    said("c2", "c3"),
    said("c3", "c1"),
    Outcome(code="broken_image", message=f"cut short {EVIL}"),
)
LABELS = ("c0", "c0", "c2", "c2", "c3")


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    root = tmp_path / "<b>set"
    root.mkdir()
    files = ("a.jpg", "b.jpg", "<script>alert(1)<!--.jpg", "d.jpg", "broken \udcff.jpg")
    for name in files:
        (root / name).write_bytes(b"image")
    images = LabelledSet(root, root, "csv", files, LABELS)
    return Evaluation(images, "http://127.0.0.1:8080/?<script>", MODEL, NAMES, OUTCOMES, 2.5, 5)


@pytest.fixture
def scores() -> Scores:
    return metrics.score(LABELS, OUTCOMES, list(NAMES), 5)


@pytest.fixture
def document(evaluation: Evaluation, scores: Scores) -> dict[str, Any]:
    files = evaluation.images.files
    ours = dict(zip(files, OUTCOMES, strict=True))
    theirs = dict(zip(files, (*OUTCOMES[:3], said("c1"), said("c0")), strict=True))
    reference = Reference(f"http://other/{EVIL}", MODEL, agreement.compare(files, ours, theirs))
    return report.document(evaluation, scores, reference)


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.images += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_document_has_every_number(document: dict[str, Any]) -> None:
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["set"] | {"path": "", "sha256": ""} == {
        "path": "",
        "sha256": "",
        "layout": "csv",
        "images": 5,
        "classes": 3,
    }
    assert (document["top1"]["right"], document["top1"]["share"]) == (2, 0.4)
    assert (document["top5"]["right"], document["answered"]) == (3, 4)
    assert [(one["code"], one["class_id"]) for one in document["failed"]] == [("broken_image", "c3")]
    assert document["not_recognized"] == {"images": 1, "share": 0.25}
    assert document["time"] == {"seconds": 2.5, "answers": 5, "images_per_second": 2.0}
    assert [(one["class_id"], one["right"], one["images"]) for one in document["classes"]] == [
        ("c3", 0, 1),
        ("c0", 1, 2),
        ("c2", 1, 2),
    ]
    assert [(one["class_id"], one["predicted_class_id"]) for one in document["confusions"]] == [
        ("c0", "c1"),
        ("c2", "c3"),
    ]
    assert [(one["file"], one["label"], one["predicted_label"], one["confidence"]) for one in document["wrong"]] == [
        ("d.jpg", EVIL, "小猫\0", 0.8),
        ("b.jpg", "crane", "crane", 0.1),
    ]
    assert sum(one["images"] for one in document["calibration"]["bins"]) == 4
    assert document["agreement"]["compared"] == 4
    assert document["agreement"]["answered_by_one"] == ["broken \udcff.jpg"]


def test_every_field_is_described(document: dict[str, Any]) -> None:
    described = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")))

    def fields(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(fields, value.values()))
        return fields(value[0]) if isinstance(value, list) and value else set()

    assert fields(document) <= described


def test_without_any_answer_unknown_numbers_are_null(evaluation: Evaluation) -> None:
    outcomes = [Outcome(code="no_answer", message="lost")] * 5
    scores = metrics.score(LABELS, outcomes, list(NAMES), 5)
    nothing = Evaluation(evaluation.images, evaluation.url, MODEL, NAMES, outcomes, 0.0, 0)
    document = report.document(nothing, scores, None)
    assert json.loads(json.dumps(document, allow_nan=False))["calibration"]["error"] is None
    assert document["time"]["images_per_second"] is None
    assert document["top1"]["share"] == 0
    assert len(Elements(page.render(document, scores, NAMES)).images) == 1


def test_nothing_from_files_or_labels_becomes_markup(document: dict[str, Any], scores: Scores, tmp_path: Path) -> None:
    html = page.render(document, scores, NAMES)
    # As it is written: this name is not UTF-8.
    (tmp_path / "report.html").write_text(html, encoding="utf-8", errors="xmlcharrefreplace")
    found = Elements((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not {"script", "b"} & set(found.tags)
    assert found.text.count(EVIL) >= 4
    assert "<script>alert(1)<!--.jpg" in found.text
    assert "小猫" in found.text
    assert not re.search(r"https?://(?!127\.0\.0\.1|other)", html.replace("http://www.w3.org", ""))


def test_the_page_has_every_plot_as_a_sound_image(document: dict[str, Any], scores: Scores) -> None:
    images = Elements(page.render(document, scores, NAMES)).images
    assert len(images) == 3
    for image in images:
        head, _, content = image.partition(",")
        assert head == "data:image/svg+xml;base64"
        tree = ElementTree.fromstring(base64.b64decode(content))
        assert tree.tag == "{http://www.w3.org/2000/svg}svg"
        assert "{http://www.w3.org/2000/svg}script" not in {element.tag for element in tree.iter()}


def test_untrained_weights_are_said_loudly_on_the_page(document: dict[str, Any], scores: Scores) -> None:
    assert "untrained weights" not in page.render(document, scores, NAMES)
    document["model"] |= {"weights": "untrained"}
    assert "untrained weights: every number here is meaningless" in page.render(document, scores, NAMES)


def test_long_tables_end_with_how_much_more_there_is(document: dict[str, Any], scores: Scores) -> None:
    document["failed"] = [{"file": f"{i}.jpg", "code": "broken_image", "message": ""} for i in range(500)]
    html = page.render(document, scores, NAMES)
    assert html.count("broken_image") == page.ROWS
    assert f"and {500 - page.ROWS} more in report.json" in html


def test_the_terminal_shows_the_same_numbers(document: dict[str, Any]) -> None:
    shown = "\n".join(report.lines(document))
    assert re.search(r"top-1 +40\.00% \(95% interval 11\.76% to 76\.93%\)", shown)
    assert re.search(r"not answered +1, counted as wrong", shown)
    assert re.search(r"same top-1 +75\.00%", shown)


def test_the_heat_map_keeps_to_the_most_confused_classes() -> None:
    generator = np.random.default_rng(3)
    ids = [f"class {i}" for i in range(60)]
    truth, predicted = generator.integers(60, size=(2, 3000)).tolist()
    outcomes = [said(ids[i]) for i in predicted]
    scores = metrics.score([ids[i] for i in truth], outcomes, ids, 5)
    chosen = plots.most_confused(scores)
    assert len(set(chosen)) == len(chosen) == plots.MAX_CLASSES
    assert set(metrics.confusions(scores)[0][:2]) <= set(chosen)
    assert plots.confusion(scores, {i: i for i in ids}) is not None


def test_where_nothing_is_confused_there_is_no_heat_map() -> None:
    scores = metrics.score(["c0"], [said("c0")], list(NAMES), 5)
    assert plots.confusion(scores, NAMES) is None
    assert plots.data_uri(plots.by_class(metrics.by_class(scores)))
