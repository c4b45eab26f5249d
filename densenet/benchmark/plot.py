"""Plot throughput, latency and the network's speed side by side, as an SVG file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from densenet import figures
from densenet.benchmark.plan import SMALL, Load, Part
from densenet.benchmark.report import in_order_of_appearance
from densenet.benchmark.statistics import Summary, summarize
from densenet.benchmark.targets import Document

_BLUE, _GREY = "#3b6ea5", "#b0b0b0"


@dataclass(frozen=True)
class Panel:
    """A panel with one bar for each `name_key` among a part's rows with row[filter_key] == filter_value.

    value_key: the measured value in a row.
    """

    title: str
    part: Part
    name_key: str
    filter_key: str
    filter_value: object
    value_key: str


_PANELS = (
    Panel("images/s, 500×335, 8 clients", Part.HTTP, "contender", "load", str(Load(SMALL, 8)), "throughput"),
    Panel("median ms, 500×335, 1 client", Part.HTTP, "contender", "load", str(Load(SMALL, 1)), "p50"),
    Panel("ms, network alone, 1 thread", Part.NETWORK, "engine", "threads", 1, "milliseconds"),
)


def write(document: Document, path: Path) -> bool:
    """Plot the document; leave out what was not measured. Return whether a file was written."""
    panels = [(panel.title, bars) for panel in _PANELS if (bars := _bars(document, panel))]
    if not panels:
        path.unlink(missing_ok=True)
        return False
    height = 1.2 + 0.24 * max(len(bars) for _, bars in panels)
    with figures.styled(4.2 * len(panels), height) as figure:
        for axes, (title, bars) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, title, bars)
    path.write_bytes(figures.svg(figure))
    return True


def _bars(document: Document, panel: Panel) -> dict[str, Summary]:
    rows = [row for row in document[panel.part] if row[panel.filter_key] == panel.filter_value]
    names = in_order_of_appearance(rows, panel.name_key)
    values = {name: [row[panel.value_key] for row in rows if row[panel.name_key] == name] for name in names}
    return {name: summary for name in names if (summary := summarize(values[name]))}


def _draw(axes: Axes, title: str, bars: Mapping[str, Summary]) -> None:
    names = list(bars)
    medians = [bars[name].median for name in names]
    whiskers: Sequence[Sequence[float]] = (
        [bar.median - bar.low for bar in bars.values()],
        [bar.high - bar.median for bar in bars.values()],
    )
    colours = [_BLUE if name.startswith("ours") else _GREY for name in names]
    axes.barh(names, medians, color=colours, xerr=whiskers, error_kw={"lw": 1, "ecolor": "#333333"})
    for i, name in enumerate(names):
        axes.text(bars[name].high, i, f" {medians[i]:.3g}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    axes.margins(x=0.12)
