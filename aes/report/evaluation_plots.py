"""Marked essays -> the report's figures, as matplotlib figures.

A figure that the data do not allow is replaced by the reason. Knows no HTML and no W&B.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from aes.metrics.agreement import spearman
from aes.metrics.bootstrap import bootstrap
from aes.metrics.results import Evaluation, Interval
from aes.report.evaluation_drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Drawing,
    dots,
    drawing_of,
    legend,
    missing,
    new_figure,
    pad,
    style,
)
from aes.report.evaluation_points import (
    FloatArray,
    Points,
    bins_of,
    changed_totals,
    collect_points,
)
from aes.report.evaluation_words import say, say_or
from aes.rubric import Rubric

_Z95 = 1.96
_NUM_RESAMPLES = 1000

_CURVES = ((ORANGE, "--", "s"), (GREEN, ":", "^"))
"""Colour, line and mark of each calibration, so that none is told by its colour alone."""


def draw_evaluation(evaluation: Evaluation, rubric: Rubric) -> list[Drawing]:
    """All figures of an evaluation; calibrations that changed nothing are left out."""
    source = evaluation.calibration_source
    return draw_figures(
        collect_points(evaluation.marked, rubric),
        rubric,
        calibrated=changed_totals(evaluation, rubric),
        fitted_on=say(f"fitted_on.{source}") if source else "",
    )


def draw_figures(
    points: Points,
    rubric: Rubric,
    *,
    calibrated: Mapping[str, FloatArray] | None = None,
    fitted_on: str = "",
) -> list[Drawing]:
    """All figures of an evaluation, in the order to be shown.

    Args:
        points: Of all essays.
        rubric: Gives the scale and the bands.
        calibrated: By method: totals after calibration, points, shape ``[N]``; for those that
            changed any.
        fitted_on: A sentence that says on which essays the maps were fitted.
    """
    with style():
        return [
            _scatter(points, rubric),
            _distribution(points, rubric),
            _confusion(points, rubric),
            _calibration(points, rubric, calibrated or {}, fitted_on),
            _residuals(points),
            _uncertainty(points),
        ]


def uncertainty_rank(points: Points) -> tuple[float, Interval, int]:
    """Spearman correlation of uncertainty and absolute error, its 95 % interval, and n."""
    here = points.graded & np.isfinite(points.uncertainty)
    spread = torch.from_numpy(points.uncertainty[here])
    error = torch.from_numpy(np.abs(points.error[here]))
    sources = [source for source, shown in zip(points.sources, here, strict=True) if shown]
    intervals = bootstrap(
        lambda counts: {"rank": spearman(spread, error, counts)},
        sources,
        num_resamples=_NUM_RESAMPLES,
        seed=0,
    )
    return float(spearman(spread, error)), intervals["rank"], len(sources)


def _scatter(points: Points, rubric: Rubric) -> Drawing:
    here, known = points.graded, np.isfinite(points.gold)
    if not here.any():
        return missing("scatter", "points")
    figure, axes = new_figure()
    scale = (rubric.minimum_total, rubric.maximum_total)
    axes.plot(scale, scale, color=GREY, linewidth=1, label=say("figures.scatter.identity"))
    mean = points.gold[known].mean()
    label = say("figures.scatter.mean")
    axes.axhline(mean, color=ORANGE, linewidth=1.2, linestyle="--", label=label)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (2, len(here)))
    dots(axes, points.gold[here] + noise[0, here], points.pred[here] + noise[1, here])
    if (lost := known & ~points.read).any():
        label = say("figures.scatter.unread")
        axes.plot(points.gold[lost], points.pred[lost], "x", color=ORANGE, label=label)
    axes.set(xlabel=say("figures.gold"), ylabel=say("figures.pred"), xlim=scale, ylim=scale)
    pad(axes)
    legend(axes)
    return drawing_of("scatter", figure, num=int(here.sum()))


def _distribution(points: Points, rubric: Rubric) -> Drawing:
    here = points.graded
    if not here.any():
        return missing("distribution", "points")
    figure, axes = new_figure()
    edges = np.linspace(rubric.minimum_total, rubric.maximum_total, 21)
    gold, pred = points.gold[here], points.pred[here]
    axes.hist(gold, edges, color=ORANGE, alpha=0.45, label=say("figures.gold"))
    axes.hist(pred, edges, histtype="step", color=BLUE, linewidth=1.8, label=say("figures.pred"))
    axes.set(xlabel=say("scores.total"), ylabel=say("figures.count"))
    axes.yaxis.get_major_locator().set_params(integer=True)
    legend(axes)
    return drawing_of("distribution", figure, num=len(gold))


def _confusion(points: Points, rubric: Rubric) -> Drawing:
    here = points.graded
    if not here.any():
        return missing("confusion", "points")
    figure, axes = new_figure(grid=False)
    counts = count_bands(points.gold[here], points.awarded[here], rubric)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, where=totals > 0, out=np.zeros(counts.shape))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    for (i, j), count in np.ndenumerate(counts):
        text = f"{count:.0f}\n{shares[i, j]:.0%}" if count else "0"
        color = "white" if shares[i, j] > 0.6 else "black"
        axes.text(j, i, text, ha="center", va="center", color=color)
    labels = [band.label for band in rubric.bands]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.set(xlabel=say("figures.confusion.pred"), ylabel=say("figures.confusion.gold"))
    return drawing_of("confusion", figure, num=int(counts.sum()), same=int(np.trace(counts)))


def count_bands(gold: FloatArray, pred: FloatArray, rubric: Rubric) -> FloatArray:
    """Essays by gold band (rows) and predicted band (columns), shape ``[bands, bands]``."""
    counts = np.zeros((len(rubric.bands), len(rubric.bands)))
    for g, p in zip(gold, pred, strict=True):
        counts[rubric.band_index(round(g)), rubric.band_index(round(p))] += 1
    return counts


def _calibration(
    points: Points, rubric: Rubric, calibrated: Mapping[str, FloatArray], fitted_on: str
) -> Drawing:
    here = points.graded
    num = int(here.sum())
    if num < 6:
        return missing("calibration", "points")
    figure, axes = new_figure()
    num_bins = min(10, num // 6 + 1)
    gold, sources = points.gold[here], np.array(points.sources)[here]
    x, y, half = _curve(points.pred[here], gold, sources, num_bins)
    label = say("figures.calibration.raw")
    axes.errorbar(x, y, half, fmt="o-", color=BLUE, capsize=3, linewidth=1.5, label=label)
    # Intervals of several curves would hide each other.
    for (method, totals), (color, line, mark) in zip(calibrated.items(), _CURVES, strict=False):
        at, height, _ = _curve(totals[here], gold, sources, num_bins)
        label = say("figures.calibration.after", method=say_or(f"methods.{method}", method))
        axes.plot(at, height, color=color, linestyle=line, marker=mark, linewidth=1.8, label=label)
    ends = np.clip([*axes.get_xlim()], rubric.minimum_total, rubric.maximum_total)
    axes.plot(ends, ends, color=GREY, linewidth=1, label=say("figures.scatter.identity"))
    axes.set(xlabel=say("figures.pred"), ylabel=say("figures.gold"))
    legend(axes)
    told = say(f"figures.calibration.{'compared' if calibrated else 'only_raw'}", fitted=fitted_on)
    return drawing_of(
        "calibration", figure, num=num, bins=num_bins, curves=1 + len(calibrated), fitted=told
    )


def _curve(
    pred: FloatArray, gold: FloatArray, sources: NDArray[np.str_], num_bins: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean prediction, mean gold and half its 95 % interval of each bin of predictions."""
    bins = bins_of(pred, num_bins)
    # Copies of one essay are not independent: they count once.
    nums = [len(np.unique(sources[b])) for b in bins]
    half = [
        _Z95 * gold[b].std(ddof=1) / np.sqrt(num) if num > 1 else np.nan
        for b, num in zip(bins, nums, strict=True)
    ]
    return (
        np.array([pred[b].mean() for b in bins]),
        np.array([gold[b].mean() for b in bins]),
        np.array(half),
    )


def _residuals(points: Points) -> Drawing:
    here = points.graded & (points.num_chars > 0)
    if not here.any():
        return missing("residuals", "lengths" if points.graded.any() else "points")
    figure, axes = new_figure()
    length, error = points.num_chars[here], points.error[here]
    axes.axhline(0, color=GREY, linewidth=1)
    dots(axes, length, error)
    if len(error) >= 10:
        window = max(5, len(error) // 10)
        order = np.argsort(length, kind="stable")
        x, y = (np.convolve(v[order], np.ones(window) / window, "valid") for v in (length, error))
        axes.plot(x, y, color=ORANGE, linewidth=2, label=say("figures.residuals.mean"))
        legend(axes)
    axes.set(xlabel=say("figures.residuals.length"), ylabel=say("figures.residuals.error"))
    return drawing_of("residuals", figure, num=len(error))


def _uncertainty(points: Points) -> Drawing:
    here = points.graded & np.isfinite(points.uncertainty)
    if not (points.uncertainty[here] > 0).any():
        return missing("uncertainty", "uncertainty" if points.graded.any() else "points")
    figure, axes = new_figure()
    spread, error = points.uncertainty[here], np.abs(points.error[here])
    dots(axes, spread, error)
    if len(error) >= 10:
        bins = bins_of(spread, min(10, len(error) // 5))
        x, y = ([v[b].mean() for b in bins] for v in (spread, error))
        label = say("figures.uncertainty.mean")
        axes.plot(x, y, "o-", color=ORANGE, linewidth=1.8, markersize=4, label=label)
        legend(axes)
    axes.set(xlabel=say("figures.uncertainty.uncertainty"), ylabel=say("figures.uncertainty.error"))
    axes.set_ylim(bottom=0)
    value, interval, num = uncertainty_rank(points)
    numbers = {"spearman": value, "low": interval.low, "high": interval.high}
    written = {name: f"{x:.2f}" if np.isfinite(x) else "—" for name, x in numbers.items()}
    return drawing_of("uncertainty", figure, num=num, **written)
