"""Render the report's document as one self-contained HTML file; all external text is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from matplotlib.figure import Figure

from densenet.evaluation import metrics, plots
from densenet.evaluation.metrics import Scores
from densenet.evaluation.report import percent, summary

ROWS = 20  # maximum per table; report.json has all
_TEMPLATE = Path(__file__).with_name("page.html")
_UNTRAINED = "The service runs on untrained weights: every number here is meaningless."
_NUMBERS = {"images", "right", "top-1", "difference"}  # right-aligned columns


def render(document: Mapping[str, Any], scores: Scores, names: Mapping[str, str]) -> str:
    """Return the page with its plots."""
    parts = [
        f'<p class="warning">{_UNTRAINED}</p>' if document["model"]["weights"] == "untrained" else "",
        _facts(document),
        *_plots(scores, names),
        _worst(document),
        _confused(document),
        _failed(document),
        _agreement(document),
    ]
    title = f"Evaluation of {document['model']['name']} on {Path(document['set']['path']).name}"
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(title), body="\n".join(parts))


def _facts(document: Mapping[str, Any]) -> str:
    model = document["model"]
    about = [
        ("service", document["url"]),
        ("model", f"{model['name']} {model['version']}, weights {model['weights']}, {model['precision']}"),
        ("set", f"{document['set']['path']} ({document['set']['layout']})"),
        ("made", document["made"]),
    ]
    return _table(("", ""), about + summary(document))


def _plots(scores: Scores, names: Mapping[str, str]) -> Iterable[str]:
    answered = scores.answered
    if answered.any():
        accuracy = float((scores.top[answered, 0] == scores.truth[answered]).mean())
        figure = plots.reliability(metrics.calibrate(scores), accuracy)
        yield _figure(figure, "Calibration: below the line, confidence exceeds accuracy.")
    if heat_map := plots.confusion(scores, names):
        text = "The most confused classes: images of the row's class predicted as the column's. Grey: right answers."
        yield _figure(heat_map, text)
    yield _figure(plots.by_class(metrics.by_class(scores)), "Number of classes by top-1 accuracy.")


def _figure(figure: Figure, text: str) -> str:
    source = plots.data_uri(figure)
    return f'<figure><img src="{source}" alt="{escape(text)}"><figcaption>{escape(text)}</figcaption></figure>'


def _worst(document: Mapping[str, Any]) -> str:
    rows = [(c["class_id"], c["label"], c["images"], c["right"], percent(c["share"])) for c in document["classes"]]
    return _section("The worst classes", ("id", "class", "images", "right", "top-1"), rows)


def _confused(document: Mapping[str, Any]) -> str:
    rows = [
        (f"{c['label']} ({c['class_id']})", f"{c['predicted_label']} ({c['predicted_class_id']})", c["images"])
        for c in document["confusions"]
    ]
    return _section("Most frequent confusions", ("true", "predicted", "images"), rows)


def _failed(document: Mapping[str, Any]) -> str:
    rows = [(f["file"], f["code"], f["message"]) for f in document["failed"]]
    return _section("Not answered, counted as wrong", ("file", "code", "reason"), rows)


def _agreement(document: Mapping[str, Any]) -> str:
    agreement = document["agreement"]
    if not agreement:
        return ""
    rows = [
        (row["file"], row["ours"], row["theirs"], "yes" if row["same_order"] else "no", f"{row['probability']:.1e}")
        for row in agreement["disagreements"]
    ]
    one_sided = [(file,) for file in agreement["answered_by_one"]]
    model = ", ".join(f"{key} {value}" for key, value in agreement["model"].items())
    return _section(
        f"Largest disagreements with {agreement['against']} ({model})",
        ("file", "service", "reference", "same top-5 in order", "difference"),
        rows,
    ) + _section("Answered by only one of the two", ("file",), one_sided)


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    more = f"<p>… and {len(rows) - ROWS} more in report.json</p>" if len(rows) > ROWS else ""
    return f"<h2>{escape(title)}</h2>\n{_table(head, rows[:ROWS])}{more}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def row(tag: str, cells: Sequence[object]) -> str:
        kinds = (' class="number"' if name in _NUMBERS else "" for name in head)
        inside = (f"<{tag}{kind}>{escape(str(c))}</{tag}>" for c, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    header = row("th", head) + "\n" if any(head) else ""
    return f"<table>\n{header}" + "\n".join(row("td", cells) for cells in rows) + "\n</table>"
