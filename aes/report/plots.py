"""``metrics.jsonl`` -> ``training_loss.png``.

Knows two keys of a line, ``step`` and ``loss``; lines without a loss are validation's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from math import isnan, nan
from pathlib import Path

from aes.files import write_atomically

_RAW, _SMOOTH = "#9db4d0", "#1f4e8c"


def plot_training_loss(metrics_jsonl: Path, path: Path, *, weight: float = 0.8) -> bool:
    """Draw the loss of each logged step and its moving average, 960 x 600 px.

    Args:
        metrics_jsonl: A run's log. A last line that a crash cut short is passed over.
        path: PNG to write.
        weight: Weight of the past in the average, see ``smooth``.

    Returns:
        Whether there was a loss to draw; nothing is written otherwise.
    """
    points = read_losses(metrics_jsonl)
    if all(isnan(loss) for _, loss in points):
        return False
    # The object interface: pyplot would keep global state and might look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps, losses = [s for s, _ in points], [loss for _, loss in points]
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    # Few points are marked, since a line through one of them would be invisible.
    marker = "o" if len(points) < 30 else None
    axes.plot(steps, losses, color=_RAW, linewidth=1, marker=marker, markersize=3, label="loss")
    axes.plot(steps, smooth(losses, weight), color=_SMOOTH, linewidth=2, label="smoothed")
    axes.set(xlabel="optimiser step", ylabel="training loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    write_atomically(path, png.getvalue())
    return True


def read_losses(metrics_jsonl: Path) -> list[tuple[int, float]]:
    """Steps and losses of a log's training lines, in order; NaN where the log says null.

    Args:
        metrics_jsonl: File with one JSON object a line.

    Returns:
        Pairs of optimiser step and loss.
    """
    lines = metrics_jsonl.read_text(encoding="utf-8").splitlines(keepends=True)
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return [
        (entry["step"], nan if entry["loss"] is None else entry["loss"])
        for entry in entries
        if "loss" in entry
    ]


def smooth(values: Iterable[float], weight: float) -> list[float]:
    """Exponential moving average that is unbiased from the first value on.

    Args:
        values: NaN leaves the average where it was.
        weight: Weight of the past, in ``[0, 1)``; 0 changes nothing.

    Returns:
        One average for each value; NaN before the first number.

    Source: Kingma and Ba (2015), Adam, section 3 (the bias correction).
    """
    total = share = 0.0
    averages = []
    for value in values:
        if not isnan(value):
            total = weight * total + (1 - weight) * value
            share = weight * share + (1 - weight)
        averages.append(total / share if share else nan)
    return averages
