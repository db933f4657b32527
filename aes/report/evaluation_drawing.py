"""What the report's figures share: colours, axes, dots, legends, the font, SVG and PNG.

Knows no evaluation.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aes.page.font import font_path
from aes.report.evaluation_points import FloatArray
from aes.report.evaluation_words import say

# Okabe and Ito (2008), Color Universal Design: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#6b7785"

_MAX_VECTOR_POINTS = 1000
"""More points than this are drawn as pixels, or an SVG of thousands of essays would be huge."""


@dataclass(frozen=True)
class Drawing:
    """One figure and the words that go with it.

    Attributes:
        name: Of the figure; its title is ``figures.<name>.title``.
        figure: A matplotlib ``Figure``; ``None`` where it could not be drawn.
        alt: What it shows, for who cannot see it; why it is missing where it is.
        caption: How to read it.
    """

    name: str
    figure: Any
    alt: str
    caption: str = ""


def to_svg(figure: Any) -> bytes:
    """The figure as SVG, text as outlines, so that it looks alike without the font."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def to_png(figure: Any) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def drawing_of(name: str, figure: Any, **found: object) -> Drawing:
    """A figure with its words.

    Args:
        name: Of the figure.
        figure: Of matplotlib.
        found: For the names in braces of its words.
    """
    alt, caption = (say(f"figures.{name}.{part}", **found) for part in ("alt", "caption"))
    return Drawing(name, figure, alt, caption)


def missing(name: str, reason: str) -> Drawing:
    """No figure, and why: a key of ``figures.reason``."""
    return Drawing(name, None, say("figures.missing", reason=say(f"figures.reason.{reason}")))


def new_figure(*, grid: bool = True) -> tuple[Any, Any]:
    """An empty figure and its axes."""
    # The object interface: pyplot would keep global state and might look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.9), layout="constrained")
    axes = figure.add_subplot()
    if grid:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def dots(axes: Any, x: FloatArray, y: FloatArray) -> None:
    """A dot an essay, paler where there are many."""
    alpha = 0.7 if len(x) < 80 else 0.4
    many = len(x) > _MAX_VECTOR_POINTS
    axes.scatter(x, y, s=18, color=BLUE, alpha=alpha, linewidths=0, rasterized=many)


def pad(axes: Any) -> None:
    """A little room around the scale, or points on its ends would be cut in half."""
    for get, set_ in ((axes.get_xlim, axes.set_xlim), (axes.get_ylim, axes.set_ylim)):
        low, high = get()
        room = 0.03 * (high - low)
        set_(low - room, high + room)


def legend(axes: Any) -> None:
    """Names of what is drawn, two a row."""
    # Above the axes, where it cannot hide a point.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=9)


@contextmanager
def style() -> Iterator[None]:
    """Settings for drawing and for saving, put back afterwards."""
    import matplotlib
    from matplotlib.font_manager import FontProperties, fontManager

    path = str(font_path("sans"))
    if all(entry.fname != path for entry in fontManager.ttflist):
        fontManager.addfont(path)
    settings = {
        "font.family": FontProperties(fname=path).get_name(),
        "font.size": 10.5,
        "axes.unicode_minus": False,
        # Labels are the rubric's own words, where a dollar sign is a dollar sign.
        "text.parse_math": False,
        "svg.fonttype": "path",
        # Names within the file come from this, so that the same data make the same file.
        "svg.hashsalt": "aes",
    }
    with matplotlib.rc_context(settings):
        yield
