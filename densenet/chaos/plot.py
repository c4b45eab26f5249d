"""Plot the private memory of the front end and of each worker over the mixed load, as an SVG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densenet import figures


def write(samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write an SVG with one line per process."""
    with figures.styled(7, 2.8) as figure:
        axes = figure.subplots()
        for process in dict.fromkeys(sample["process"] for sample in samples):
            own = [sample for sample in samples if sample["process"] == process]
            minutes = [sample["seconds"] / 60 for sample in own]
            axes.plot(minutes, [sample["memory"] for sample in own], label=process, lw=1.2)
        axes.set(xlabel="minutes", ylabel="private memory, MB")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, loc="lower right", ncols=4)
    path.write_bytes(figures.svg(figure))
