"""The style of all figures, and SVG files of them, without a display and without pyplot's global state."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

# Text stays text in the SVG, because the reader's fonts support the scripts of class names.
_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "densenet",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def styled(width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of this size in inches; draw into it within the block."""
    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure) -> bytes:
    """Return the figure as the content of an SVG file, which is the same in every run."""
    buffer = io.BytesIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # matplotlib measures text with its own font, which lacks some scripts; the reader's fonts are used for display.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
