"""A sweep -> a figure: the objective against each setting that was varied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aes.report.evaluation_drawing import BLUE, GREY, ORANGE, style
from aes.report.sweep import Sweep

_MAX_PANELS = 6
_MAX_TICKS = 8
_LOG_FROM = 8.0
"""Values of which the largest is this many times the smallest stand on a logarithmic axis."""


def draw_sweep(sweep: Sweep) -> Any | None:
    """A panel for each varied setting, a dot a trial, the best one apart; ``None`` without any.

    Bars tell how uncertain each value is, where that can be told. A line tells what a ridge
    regression on the length reaches, where all trials were measured on the same essays.
    """
    keys = [key for key in sweep.varied if any(key in one.varied for one in sweep.measured)]
    if not keys or not sweep.measured:
        return None
    keys = keys[:_MAX_PANELS]
    with style():
        from matplotlib.figure import Figure

        columns = min(len(keys), 3)
        rows = -(-len(keys) // columns)
        figure = Figure(figsize=(0.6 + 4.4 * columns, 3.6 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, key in zip(panels.flat, keys, strict=False):
            _draw_panel(axes, sweep, key)
        for axes in panels[:, 0]:
            axes.set_ylabel(sweep.monitor)
        for axes in list(panels.flat)[len(keys) :]:
            axes.set_axis_off()
    return figure


def _draw_panel(axes: Any, sweep: Sweep, key: str) -> None:
    trials = [one for one in sweep.measured if key in one.varied]
    places = _places(axes, [one.varied[key] for one in trials])
    for place, one in zip(places, trials, strict=True):
        is_best = one is sweep.best
        color, size = (ORANGE, 70) if is_best else (BLUE, 36)
        axes.scatter([place], [one.objective], s=size, color=color, zorder=3 if is_best else 2)
        if sweep.noise is not None:
            axes.errorbar([place], [one.objective], yerr=sweep.noise, color=color, alpha=0.3)
    floor = _floor(sweep)
    if floor is not None:
        axes.axhline(floor, color=GREY, linestyle="--", linewidth=1)
        text = {"xy": (1, floor), "xycoords": ("axes fraction", "data"), "fontsize": 8}
        axes.annotate("仅看长度 ridge on length", **text, ha="right", va="bottom", color=GREY)
    axes.set_xlabel(key)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.margins(0.12)
    axes.spines[["top", "right"]].set_visible(False)


def _places(axes: Any, values: Sequence[str]) -> Sequence[float]:
    """Where each value stands: on an axis of numbers, or side by side where they are words."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        words = list(dict.fromkeys(values))
        axes.set_xticks(range(len(words)), words, rotation=30 if len(words) > 4 else 0)
        return [float(words.index(value)) for value in values]
    if min(numbers) > 0 and max(numbers) >= _LOG_FROM * min(numbers):
        axes.set_xscale("log")
    different = dict(sorted(zip(numbers, values, strict=True)))
    if len(different) <= _MAX_TICKS:
        axes.set_xticks(list(different), list(different.values()))
        axes.set_xticks([], minor=True)
    return numbers


def _floor(sweep: Sweep) -> float | None:
    """QWK of the ridge regression on length, where the objective is the total's QWK."""
    if sweep.monitor != "val/qwk/total":
        return None
    found = {one.metrics.get("baseline/length_ridge/qwk") for one in sweep.measured}
    return found.pop() if len(found) == 1 else None
