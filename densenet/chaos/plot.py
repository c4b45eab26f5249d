"""Plot the private memory of the front end and of each worker over the mixed load, as an SVG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "chaos",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write(samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write an SVG with one line per process."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        axes = figure.subplots()
        for process in dict.fromkeys(sample["process"] for sample in samples):
            own = [sample for sample in samples if sample["process"] == process]
            minutes = [sample["seconds"] / 60 for sample in own]
            axes.plot(minutes, [sample["memory"] for sample in own], label=process, lw=1.2)
        axes.set(xlabel="minutes", ylabel="private memory, MB")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, loc="lower right", ncols=4)
        figure.savefig(path, format="svg", metadata={"Date": None})
