"""Two graders' scores -> one number that says how far they agree.

Plain functions on tensors. They do not know rubrics, essays or where a score came from.
Sums are taken in float64, results are float32; what is undefined is NaN, never 0.

Every function takes ``weights``: how often each essay counts, any real dtype, shape ``[..., N]``.
The result then has the shape ``[...]``: one value for each row of weights, so that a thousand
bootstrap resamples are one call. Without weights each essay counts once and the result is a scalar.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quadratic_kappa(
    pred: Tensor, gold: Tensor, weights: Tensor | None = None, *, num_grades: int
) -> Tensor:
    """Agreement of two graders, disagreements weighted by squared distance.

    The table of weights needs no building: with squared distances the observed and the chance
    disagreement are sums of means and variances, so that kappa is ``continuous_kappa`` of whole
    numbers (Fleiss and Cohen 1973). ``num_grades`` therefore bounds the grades and scales nothing.

    Args:
        pred: Grades in ``[0, num_grades)``, int64, shape ``[N]``.
        gold: Alike.
        weights: How often each essay counts, shape ``[..., N]``.
        num_grades: Number of grades on the scale, e.g. 21 for 0 to 20 points.

    Returns:
        In ``[-1, 1]``, float32; NaN where undefined (both constant, or no grades).

    Raises:
        ValueError: If a grade is out of range or no whole number, or the shapes differ.

    Source: Cohen (1968), Psychological Bulletin 70(4), 213-220; Fleiss and Cohen (1973),
        Educational and Psychological Measurement 33(3), 613-619.
    """
    for name, grades in (("pred", pred), ("gold", gold)):
        if grades.is_floating_point():
            raise ValueError(f"{name} holds {grades.dtype}; round the grades to int64 first")
        if grades.numel() and not 0 <= int(grades.min()) <= int(grades.max()) < num_grades:
            raise ValueError(
                f"{name} holds grades from {int(grades.min())} to {int(grades.max())}, outside "
                f"[0, {num_grades}); subtract the scale's minimum and check num_grades"
            )
    return continuous_kappa(pred, gold, weights)


def continuous_kappa(pred: Tensor, gold: Tensor, weights: Tensor | None = None) -> Tensor:
    """Quadratic kappa of scores that need not be whole: 2 cov / (var + var + (mean shift)^2).

    Moments are the population's (divided by N), which makes it equal to ``quadratic_kappa``
    wherever both are defined.

    Args:
        pred: Scores, any real dtype, shape ``[N]``.
        gold: Alike.
        weights: How often each essay counts, shape ``[..., N]``.

    Returns:
        In ``[-1, 1]``, float32; NaN where undefined (both constant, or no scores).

    Raises:
        ValueError: If the shapes differ.

    Source: Lin (1989), Biometrics 45(1), 255-268 (concordance correlation coefficient).
    """
    pred, gold, weights = _checked(pred, gold, weights)
    shift = _mean(pred, weights) - _mean(gold, weights)
    var_pred, var_gold = _covariance(pred, pred, weights), _covariance(gold, gold, weights)
    kappa = 2 * _covariance(pred, gold, weights) / (var_pred + var_gold + shift.square())
    return _where(_varies(pred, weights) | _varies(gold, weights), kappa)


def pearson(pred: Tensor, gold: Tensor, weights: Tensor | None = None) -> Tensor:
    """Linear correlation of two graders; blind to a shift and to a change of scale.

    Args:
        pred: Scores, any real dtype, shape ``[N]``.
        gold: Alike.
        weights: How often each essay counts, shape ``[..., N]``.

    Returns:
        In ``[-1, 1]``, float32; NaN where undefined (either constant, or no scores).

    Raises:
        ValueError: If the shapes differ.

    Source: Pearson (1895), Proceedings of the Royal Society of London 58, 240-242.
    """
    return _correlation(*_checked(pred, gold, weights))


def spearman(pred: Tensor, gold: Tensor, weights: Tensor | None = None) -> Tensor:
    """Correlation of the graders' rankings; equal scores share their mean rank.

    Args:
        pred: Scores, any real dtype, shape ``[N]``.
        gold: Alike.
        weights: How often each essay counts, shape ``[..., N]``; its copies are ties.

    Returns:
        In ``[-1, 1]``, float32; NaN where undefined (either constant, or no scores).

    Raises:
        ValueError: If the shapes differ.

    Source: Spearman (1904), American Journal of Psychology 15(1), 72-101.
    """
    pred, gold, weights = _checked(pred, gold, weights)
    return _correlation(_mean_ranks(pred, weights), _mean_ranks(gold, weights), weights)


def mae(pred: Tensor, gold: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute difference in points: at least 0, float32; NaN without scores.

    ``pred``, ``gold`` and ``weights`` as for ``pearson``, here and below.
    """
    pred, gold, weights = _checked(pred, gold, weights)
    return _mean((pred - gold).abs(), weights).float()


def rmse(pred: Tensor, gold: Tensor, weights: Tensor | None = None) -> Tensor:
    """Root of the mean squared difference in points: at least 0, float32; NaN without scores."""
    pred, gold, weights = _checked(pred, gold, weights)
    return _mean((pred - gold).square(), weights).sqrt().float()


def mean_shift(pred: Tensor, gold: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of prediction minus gold in points; positive: graded too kindly. NaN without scores."""
    pred, gold, weights = _checked(pred, gold, weights)
    return _mean(pred - gold, weights).float()


def within(
    pred: Tensor, gold: Tensor, weights: Tensor | None = None, *, threshold: float
) -> Tensor:
    """Share of essays on which the graders differ by at most ``threshold`` points.

    Returns:
        In ``[0, 1]``, float32; NaN without scores.
    """
    pred, gold, weights = _checked(pred, gold, weights)
    return _mean(((pred - gold).abs() <= threshold).double(), weights).float()


def exact(pred: Tensor, gold: Tensor, weights: Tensor | None = None) -> Tensor:
    """Share of essays with equal scores, in ``[0, 1]``; meant for whole scores."""
    return within(pred, gold, weights, threshold=0)


def adjacent(pred: Tensor, gold: Tensor, weights: Tensor | None = None) -> Tensor:
    """Share of essays whose scores differ by at most one, in ``[0, 1]``; meant for whole scores."""
    return within(pred, gold, weights, threshold=1)


def smd(pred: Tensor, gold: Tensor, weights: Tensor | None = None) -> Tensor:
    """Standardised mean difference: the mean shift over both graders' pooled spread.

    Pooled is the root of the mean of both variances (divided by N). A grader that bunches its
    scores shrinks it and so makes its own shift count for more.

    Returns:
        Float32, positive: graded too kindly; NaN where undefined (both constant, or no scores).

    Source: Williamson, Xi and Breyer (2012), Educational Measurement: Issues and Practice 31(1),
        2-13, who call scores biased from an absolute value of 0.15; Cohen (1988), Statistical
        Power Analysis for the Behavioral Sciences, for the pooled spread.
    """
    pred, gold, weights = _checked(pred, gold, weights)
    pooled = (_covariance(pred, pred, weights) + _covariance(gold, gold, weights)) / 2
    shift = _mean(pred - gold, weights)
    return _where(_varies(pred, weights) | _varies(gold, weights), shift / pooled.sqrt())


def sd_ratio(pred: Tensor, gold: Tensor, weights: Tensor | None = None) -> Tensor:
    """Spread of the predictions over that of the gold scores; below 1: scores are bunched.

    Returns:
        At least 0, float32; NaN where undefined (gold constant, or no scores).
    """
    pred, gold, weights = _checked(pred, gold, weights)
    # Equal floats may leave a variance a hair off 0.
    var_pred = _varies(pred, weights) * _covariance(pred, pred, weights)
    ratio = (var_pred / _covariance(gold, gold, weights)).sqrt()
    return _where(_varies(gold, weights), ratio)


def _checked(pred: Tensor, gold: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    # Without this check [N] against [N, 1] would broadcast to a plausible wrong number.
    if pred.ndim != 1 or pred.shape != gold.shape:
        raise ValueError(
            f"pred has shape {tuple(pred.shape)} and gold {tuple(gold.shape)}; "
            "pass two tensors of the same shape [N]"
        )
    if weights is None:
        weights = torch.ones_like(pred)
    if weights.shape[-1:] != pred.shape:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)} for {len(pred)} scores; "
            "pass one weight for each score, shape [..., N]"
        )
    return pred.double(), gold.double(), weights.double()


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the last dimension; NaN without weight."""
    mean: Tensor = torch.linalg.vecdot(values, weights) / weights.sum(-1)
    return mean


def _covariance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    # Centred first, by any constant: the difference of two large numbers would lose digits.
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return _mean(a * b, weights) - _mean(a, weights) * _mean(b, weights)


def _correlation(pred: Tensor, gold: Tensor, weights: Tensor) -> Tensor:
    spread = (_covariance(pred, pred, weights) * _covariance(gold, gold, weights)).sqrt()
    defined = _varies(pred, weights) & _varies(gold, weights)
    return _where(defined, _covariance(pred, gold, weights) / spread)


def _varies(scores: Tensor, weights: Tensor) -> Tensor:
    # Compared value by value: the variance of equal floats need not come out as exactly 0.
    if not scores.shape[-1]:
        return torch.zeros(weights.shape[:-1], dtype=torch.bool, device=scores.device)
    counts = weights > 0
    low = torch.where(counts, scores, torch.inf).amin(-1)
    return low < torch.where(counts, scores, -torch.inf).amax(-1)


def _where(defined: Tensor, values: Tensor) -> Tensor:
    return torch.where(defined, values, torch.nan).float()


def _mean_ranks(scores: Tensor, weights: Tensor) -> Tensor:
    """Rank of each score from 1, float64, shape ``[..., N]``; ties share the mean of their ranks.

    Args:
        scores: Shape ``[N]``.
        weights: Shape ``[..., N]``; a score that counts twice takes two ranks.
    """
    values, inverse = torch.unique(scores, return_inverse=True)
    counts = weights.new_zeros((*weights.shape[:-1], len(values)))
    counts = counts.index_add(-1, inverse, weights)
    return (counts.cumsum(-1) - (counts - 1) / 2)[..., inverse]
