"""Plot metrics as SVG images."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from densenet import figures
from densenet.evaluation import metrics
from densenet.evaluation.metrics import Calibration, ClassScore, Scores

MAX_CLASSES = 16  # in the heat map; more would be unreadable
_BLUE, _RED, _GREY = "#3b6ea5", "#c8553d", "#8a8a8a"
_ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}


def reliability(calibration: Calibration, accuracy: float) -> Figure:
    """Plot accuracy against confidence by bin, and a histogram of confidence. accuracy: of answered images, 0..1."""
    with figures.styled(5.2, 5.6) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        filled = calibration.images > 0
        left, width = calibration.edges[:-1][filled], np.diff(calibration.edges)[filled]
        shares, means = calibration.accuracy[filled], calibration.confidence[filled]
        top.bar(left, shares, width, align="edge", color=_BLUE, edgecolor="white", label="accuracy")
        top.vlines(means, np.minimum(shares, means), np.maximum(shares, means), color=_RED, lw=2, label="gap")
        top.plot(means, means, "_", color=_RED, markersize=9)
        top.plot([0, 1], [0, 1], "--", color=_GREY, lw=1, label="perfect calibration")
        top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        figure.suptitle(f"expected calibration error {calibration.error:.2%}", fontsize=10)
        # Legends are outside the axes, because bars may cover any place inside.
        top.legend(**_ABOVE, ncols=3)
        total = max(1, calibration.images.sum())
        bottom.bar(left, calibration.images[filled] / total, width, align="edge", color=_GREY, edgecolor="white")
        for value, colour, name in ((calibration.mean_confidence, _RED, "mean confidence"), (accuracy, _BLUE, "top-1")):
            bottom.axvline(value, color=colour, lw=1.5, clip_on=False, label=f"{name} {value:.2f}")
        bottom.set(xlabel="confidence of the best class", ylabel="share of images")
        bottom.legend(**_ABOVE, ncols=2)
    return figure


def most_confused(scores: Scores) -> list[int]:
    """Return the positions of up to MAX_CLASSES classes in the most frequent confusions, confused pairs adjacent."""
    positions: dict[int, None] = {}
    for truth, predicted, _ in metrics.confusions(scores):
        extended = positions | {truth: None, predicted: None}
        if len(extended) <= MAX_CLASSES:
            positions = extended
    return list(positions)


def confusion(scores: Scores, names: Mapping[str, str]) -> Figure | None:
    """Plot the confusion matrix of the most confused classes; return None if there are no confusions."""
    classes = most_confused(scores)
    if not classes:
        return None
    matrix = metrics.confusion_matrix(scores, classes)
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, matrix)
    side = 2.4 + 0.34 * len(classes)
    with figures.styled(side + 0.6, side) as figure:
        axes = figure.subplots()
        # The diagonal is left out, because its large counts would hide the colours of the wrong answers.
        axes.pcolormesh(
            np.ma.masked_equal(wrong, 0), cmap="OrRd", norm=LogNorm(1, max(2, wrong.max())), edgecolors="none"
        )
        _number_cells(axes, matrix, wrong)
        labels = [_name(scores.ids[position], names) for position in classes]
        ticks = np.arange(len(classes)) + 0.5
        axes.set_xticks(ticks, labels, rotation=50, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(ticks, labels, parse_math=False)
        axes.set_xticks(range(len(classes)), minor=True)
        axes.set_yticks(range(len(classes)), minor=True)
        axes.grid(which="minor", color="#e4e4e4", lw=0.5)
        axes.tick_params(which="both", length=0)
        axes.set(xlabel="predicted", ylabel="true", aspect="equal")
        axes.invert_yaxis()
    return figure


def by_class(class_scores: Sequence[ClassScore]) -> Figure:
    """Plot a histogram of the classes' top-1 accuracy."""
    shares = np.array([item.right / item.images for item in class_scores])
    with figures.styled(5.2, 3.0) as figure:
        axes = figure.subplots()
        axes.hist(shares, bins=20, range=(0, 1), color=_BLUE, edgecolor="white")
        axes.axvline(
            float(shares.mean()), color=_RED, lw=1.5, clip_on=False, label=f"mean over classes {shares.mean():.2f}"
        )
        axes.set(xlim=(0, 1), xlabel="top-1 accuracy of a class", ylabel="classes")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(**_ABOVE)
    return figure


def data_uri(figure: Figure) -> str:
    """Return the figure as an SVG data URI for an <img>, where scripts never run, whatever a class is called."""
    return "data:image/svg+xml;base64," + base64.b64encode(figures.svg(figure)).decode()


def _number_cells(axes: Axes, matrix: metrics.Ints, wrong: metrics.Ints) -> None:
    dark = wrong.max() ** 0.7  # from this count on, cells are too dark for black
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            colour = _GREY if row == column else "white" if wrong[row, column] > dark > 1 else "black"
            axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", fontsize=7, color=colour)


def _name(class_id: str, names: Mapping[str, str]) -> str:
    name = names[class_id]
    # Names are not unique: two ImageNet classes are called crane.
    ambiguous = sum(other == name for other in names.values()) > 1
    # Control characters are not valid in XML.
    full = "".join(filter(str.isprintable, f"{name} {class_id}" if ambiguous else name))
    return full if len(full) <= 26 else full[:25] + "…"
