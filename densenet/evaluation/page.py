"""Render the report's document as one self-contained HTML file. The template page.html escapes all external text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from densenet.evaluation import metrics, plots
from densenet.evaluation.metrics import Scores
from densenet.evaluation.report import percent, summary

ROWS = 20  # maximum per table; report.json has all


def render(document: Mapping[str, Any], scores: Scores, names: Mapping[str, str]) -> str:
    """Return the page with its plots."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template("page.html").render(
        document=document,
        set_name=Path(document["set"]["path"]).name,
        summary=summary(document),
        figures=_figures(scores, names),
        max_rows=ROWS,
    )


def _figures(scores: Scores, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each plot as a data URI, with its caption."""
    answered = scores.answered
    if answered.any():
        accuracy = float((scores.top[answered, 0] == scores.truth[answered]).mean())
        figure = plots.reliability(metrics.calibrate(scores), accuracy)
        yield plots.data_uri(figure), "Calibration: below the line, confidence exceeds accuracy."
    if heatmap := plots.confusion(scores, names):
        text = "The most confused classes: images of the row's class predicted as the column's. Grey: right answers."
        yield plots.data_uri(heatmap), text
    yield plots.data_uri(plots.by_class(metrics.by_class(scores))), "Number of classes by top-1 accuracy."
