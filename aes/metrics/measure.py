"""Two markers' scores of the same essays -> every measure of agreement, with intervals.

The one place that says which scores a metric compares: ``AgreementMetrics`` in training and
``measure`` in reports both end in ``agreement_metrics``. Names are ``<metric>/<part>``, where the
part is ``total`` or a trait:

- of whole scores, as awarded: ``qwk``, ``exact``, ``adjacent``; of the total also
  ``within_threshold``, and ``band_qwk``, ``band_exact``, ``band_adjacent``, which compare the
  rubric's bands;
- of scores with their fractions: ``continuous_qwk``, ``pearson``, ``spearman``, ``mae``, ``rmse``,
  ``mean_shift``, ``smd``, ``sd_ratio``;
- ``parse_rate``: share of answers that could be read.

What the scores are is said in ``aes.metrics.marks``, how each number is made in
``aes.metrics.agreement``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from aes.metrics.agreement import (
    adjacent,
    continuous_kappa,
    exact,
    mae,
    mean_shift,
    pearson,
    quadratic_kappa,
    rmse,
    sd_ratio,
    smd,
    spearman,
    within,
)
from aes.metrics.bootstrap import bootstrap
from aes.metrics.marks import Marks, band_indices, gold_marks, model_marks
from aes.metrics.results import Agreement
from aes.records import Marked
from aes.rubric import Rubric

_OF_EXPECTED: Mapping[str, Callable[..., Tensor]] = {
    "continuous_qwk": continuous_kappa,
    "pearson": pearson,
    "spearman": spearman,
    "mae": mae,
    "rmse": rmse,
    "mean_shift": mean_shift,
    "smd": smd,
    "sd_ratio": sd_ratio,
}
_OF_WHOLE: Mapping[str, Callable[..., Tensor]] = {"exact": exact, "adjacent": adjacent}
_OF_BANDS: Mapping[str, Callable[..., Tensor]] = {"qwk": continuous_kappa, **_OF_WHOLE}


def measure(
    marked: Sequence[Marked],
    *,
    rubric: Rubric,
    threshold: float | None,
    num_resamples: int,
    seed: int,
) -> Agreement:
    """Agreement of a model's Grades with the gold scores, in total and by trait.

    Args:
        marked: Graded essays; none at all makes every metric NaN.
        rubric: What they were graded by.
        threshold: Most points of the total by which two markers may differ without arbitration;
            ``None``: ``within_threshold/total`` is left out.
        num_resamples: Of the bootstrap over sources; 0: no intervals.
        seed: The same seed gives the same intervals.

    Raises:
        ValueError: If an essay has no gold score for a trait, or one outside its range.
    """
    return measure_marks(
        model_marks(marked, rubric),
        gold_marks(marked, rubric),
        sources=[each.source for each in marked],
        rubric=rubric,
        threshold=threshold,
        num_resamples=num_resamples,
        seed=seed,
    )


def measure_values(
    totals: ArrayLike,
    gold: ArrayLike,
    *,
    sources: Sequence[str],
    rubric: Rubric,
    threshold: float | None,
    num_resamples: int,
    seed: int,
) -> Agreement:
    """Agreement of predicted totals with gold ones, for graders that know no traits.

    Args:
        totals: Predictions, need not be whole, shape ``[N]``; moved into the rubric's range.
        gold: Gold totals, shape ``[N]``.
        sources: Source of each essay, length N; intervals resample sources.
        rubric: As for ``measure``, and so on.
    """
    return measure_marks(
        Marks.from_totals(totals, rubric),
        Marks.from_whole(torch.as_tensor(gold, dtype=torch.float64)[:, None]),
        sources=sources,
        rubric=rubric,
        threshold=threshold,
        num_resamples=num_resamples,
        seed=seed,
    )


def measure_marks(
    pred: Marks,
    gold: Marks,
    *,
    sources: Sequence[str],
    rubric: Rubric,
    threshold: float | None,
    num_resamples: int,
    seed: int,
) -> Agreement:
    """Agreement of two markers; see ``measure``.

    Args:
        pred: N essays.
        gold: The same essays by the marker to be compared with.
        sources: Source of each essay, length N.
    """
    metrics = partial(agreement_metrics, pred, gold, rubric=rubric, threshold=threshold)
    return Agreement(
        num=len(sources),
        num_sources=len(set(sources)),
        metrics={name: float(value) for name, value in metrics().items()},
        intervals=bootstrap(metrics, sources, num_resamples=num_resamples, seed=seed),
    )


def agreement_metrics(
    pred: Marks,
    gold: Marks,
    weights: Tensor | None = None,
    *,
    rubric: Rubric,
    threshold: float | None,
) -> dict[str, Tensor]:
    """Agreement of two markers in total and, where the marks hold them, by trait.

    Args:
        pred: N essays.
        gold: The same essays by the marker to be compared with, with as many columns.
        weights: How often each essay counts, shape ``[..., N]``; ``None``: once.
        rubric: Ranges of the scores, and bands of the totals.
        threshold: In points of the total; ``None``: no ``within_threshold/total``.

    Returns:
        By name, float32, shape ``[...]``; NaN where undefined.

    Raises:
        ValueError: If a whole score is outside its range.
    """
    ranges = {"total": (rubric.minimum_total, rubric.maximum_total), **rubric.ranges}
    parts = list(ranges)[: pred.awarded.shape[1]]
    metrics = {}
    for i, part in enumerate(parts):
        low, high = ranges[part]
        p, g = ((marks.awarded[:, i] - low).long() for marks in (pred, gold))
        metrics[f"qwk/{part}"] = quadratic_kappa(p, g, weights, num_grades=high - low + 1)
    for formulas, pred_scores, gold_scores in (
        (_OF_EXPECTED, pred.expected, gold.expected),
        (_OF_WHOLE, pred.awarded, gold.awarded),
    ):
        for name, formula in formulas.items():
            for i, part in enumerate(parts):
                metrics[f"{name}/{part}"] = formula(pred_scores[:, i], gold_scores[:, i], weights)
    return metrics | _total_metrics(pred, gold, weights, rubric=rubric, threshold=threshold)


def _total_metrics(
    pred: Marks, gold: Marks, weights: Tensor | None, *, rubric: Rubric, threshold: float | None
) -> dict[str, Tensor]:
    """What is measured of the total alone, and the parse rate."""
    p, g = pred.awarded[:, 0], gold.awarded[:, 0]
    metrics = {}
    if threshold is not None:
        metrics["within_threshold/total"] = within(p, g, weights, threshold=threshold)
    p, g = band_indices(p, rubric), band_indices(g, rubric)
    for name, formula in _OF_BANDS.items():
        metrics[f"band_{name}/total"] = formula(p, g, weights)
    metrics["parse_rate"] = exact(pred.read, torch.ones_like(pred.read), weights)
    return metrics
