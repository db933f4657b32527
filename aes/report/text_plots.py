"""Confusion matrices -> figures. Knows no HTML."""

from __future__ import annotations

import numpy as np

from aes.metrics.classification import Classification
from aes.report.evaluation_drawing import Drawing, style
from aes.report.evaluation_words import say

_MOST_LABELS = 40
_MOST_NUMBERS = 15
"""Up to so many labels counts are written into the cells."""


def draw_confusion(found: Classification, *, model: str) -> Drawing:
    """Samples by wanted label (rows) and answer (columns), shaded by their share of the row.

    Args:
        model: Whose answers they are, in words.
    """
    name, num = "confusion", len(found.labels)
    if num > _MOST_LABELS:
        return Drawing(name, None, say("answers.confusion.too_many", num=num))
    counts = np.array(found.confusion, dtype=np.int64).reshape(num, num + 1)
    hits = int(np.trace(counts[:, :num]))
    columns = list(found.labels)
    if counts[:, num].any():
        columns.append(say("answers.confusion.unparsed"))
    alt = say("answers.confusion.alt", model=model, num=found.num, hits=hits)
    figure = _draw(counts[:, : len(columns)], list(found.labels), columns)
    return Drawing(name, figure, alt, say("answers.confusion.caption"))


def _draw(counts: np.ndarray, rows: list[str], columns: list[str]) -> object:
    from matplotlib.figure import Figure

    with style():
        side = 2.2 + 0.42 * len(rows)
        width = max(4.0, side + 0.42 * (len(columns) - len(rows)))
        figure = Figure(figsize=(width, max(3.2, side)), layout="constrained")
        axes = figure.add_subplot()
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), [_short(c) for c in columns], rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), [_short(row) for row in rows])
        axes.set_xlabel(say("answers.confusion.pred"))
        axes.set_ylabel(say("answers.confusion.gold"))
        if len(rows) <= _MOST_NUMBERS:
            for (i, j), count in np.ndenumerate(counts):
                colour = "white" if shares[i, j] > 0.55 else "#1d2733"
                axes.text(j, i, str(count), ha="center", va="center", color=colour)
        return figure


def _short(label: str) -> str:
    return label if len(label) <= 12 else label[:11] + "…"
