"""Training scores and lengths -> what a grader that reads nothing would reach.

Two floors for the total: always the mean, and a straight line through the essay's length. They do
not know the essays; a model that does not beat them has learnt nothing from the page.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from aes.metrics.agreement import mae, quadratic_kappa

FloatArray = NDArray[np.float64]


def predict_mean(gold_train: ArrayLike, n: int) -> FloatArray:
    """The mean training score for every essay.

    Args:
        gold_train: Training scores, shape ``[M]``, M at least 1.
        n: Number of essays to predict.

    Returns:
        Float64, shape ``[n]``.
    """
    return np.full(n, np.mean(np.asarray(gold_train, dtype=np.float64)))


def ridge_on_length(
    train_lengths: ArrayLike, train_gold: ArrayLike, lengths: ArrayLike, alpha: float
) -> FloatArray:
    """Ridge regression of the score on the standardised length, intercept unpenalised.

    Args:
        train_lengths: Lengths of the training essays in characters, shape ``[M]``, M at least 1.
        train_gold: Their scores, shape ``[M]``.
        lengths: Lengths to predict for, shape ``[N]``.
        alpha: Weight of the penalty on the squared slope, at least 0.

    Returns:
        Float64, shape ``[N]``; the mean score where all training lengths are equal.

    Source: Hoerl and Kennard (1970), Technometrics 12(1), 55-67.
    """
    x, y, new = (np.asarray(a, dtype=np.float64) for a in (train_lengths, train_gold, lengths))
    scale = x.std()
    if scale == 0:
        return predict_mean(y, len(new))
    z = (x - x.mean()) / scale
    slope = z @ (y - y.mean()) / (z @ z + alpha)
    return np.asarray(y.mean() + slope * (new - x.mean()) / scale, dtype=np.float64)


def baseline_metrics(
    *,
    train_lengths: Sequence[int],
    train_gold: Sequence[int],
    lengths: Sequence[int],
    gold: Sequence[int],
    minimum: int,
    maximum: int,
    alpha: float = 1.0,
) -> dict[str, float]:
    """Agreement of both floors with the gold totals, on predictions rounded into the range.

    Args:
        train_lengths: Lengths of the training essays in characters, at least one.
        train_gold: Their gold totals.
        lengths: Lengths of the essays to grade.
        gold: Their gold totals.
        minimum: Least total of the rubric.
        maximum: Highest total of the rubric.
        alpha: Penalty of ``ridge_on_length``.

    Returns:
        ``baseline/mean/qwk`` (0 by construction), ``baseline/length_ridge/qwk`` and the same
        two with ``mae``; NaN where undefined.
    """
    predictions = {
        "mean": predict_mean(train_gold, len(gold)),
        "length_ridge": ridge_on_length(train_lengths, train_gold, lengths, alpha),
    }
    gold_total = torch.tensor(gold, dtype=torch.int64)
    metrics = {}
    for name, raw in predictions.items():
        pred = torch.from_numpy(raw).round().clamp(minimum, maximum).long()
        kappa = quadratic_kappa(
            pred - minimum, gold_total - minimum, num_grades=maximum - minimum + 1
        )
        metrics[f"baseline/{name}/qwk"] = float(kappa)
        metrics[f"baseline/{name}/mae"] = float(mae(pred, gold_total))
    return metrics
