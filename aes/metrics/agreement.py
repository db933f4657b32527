"""Two graders' scores -> one number that says how far they agree.

Plain functions on tensors. They do not know rubrics, essays or where a score came from.
Sums are taken in float64, results are float32; what is undefined is NaN, never 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quadratic_kappa(pred: Tensor, gold: Tensor, *, num_grades: int) -> Tensor:
    """Agreement of two graders, disagreements weighted by squared distance.

    The table of weights needs no building: with squared distances the observed and the chance
    disagreement are sums of means and variances, so that kappa is ``continuous_kappa`` of whole
    numbers (Fleiss and Cohen 1973). ``num_grades`` therefore bounds the grades and scales nothing.

    Args:
        pred: Grades in ``[0, num_grades)``, int64, shape ``[N]``.
        gold: Alike.
        num_grades: Number of grades on the scale, e.g. 21 for 0 to 20 points.

    Returns:
        Scalar in ``[-1, 1]``, float32; NaN where undefined (both constant, or no grades).

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
    return continuous_kappa(pred, gold)


def continuous_kappa(pred: Tensor, gold: Tensor) -> Tensor:
    """Quadratic kappa of scores that need not be whole: 2 cov / (var + var + (mean shift)^2).

    Moments are the population's (divided by N), which makes it equal to ``quadratic_kappa``
    wherever both are defined.

    Args:
        pred: Scores, any real dtype, shape ``[N]``.
        gold: Alike.

    Returns:
        Scalar in ``[-1, 1]``, float32; NaN where undefined (both constant, or no scores).

    Raises:
        ValueError: If the shapes differ.

    Source: Lin (1989), Biometrics 45(1), 255-268 (concordance correlation coefficient).
    """
    pred, gold = _pair(pred, gold)
    if _is_constant(pred) and _is_constant(gold):
        return _undefined(pred)
    shift = pred.mean() - gold.mean()
    pred, gold = pred - pred.mean(), gold - gold.mean()
    spread = pred.square().mean() + gold.square().mean() + shift.square()
    return (2 * (pred * gold).mean() / spread).float()


def pearson(pred: Tensor, gold: Tensor) -> Tensor:
    """Linear correlation of two graders; blind to a shift and to a change of scale.

    Args:
        pred: Scores, any real dtype, shape ``[N]``.
        gold: Alike.

    Returns:
        Scalar in ``[-1, 1]``, float32; NaN where undefined (either constant, or no scores).

    Raises:
        ValueError: If the shapes differ.

    Source: Pearson (1895), Proceedings of the Royal Society of London 58, 240-242.
    """
    pred, gold = _pair(pred, gold)
    if _is_constant(pred) or _is_constant(gold):
        return _undefined(pred)
    pred, gold = pred - pred.mean(), gold - gold.mean()
    spread = (pred.square().sum() * gold.square().sum()).sqrt()
    return ((pred * gold).sum() / spread).float()


def spearman(pred: Tensor, gold: Tensor) -> Tensor:
    """Correlation of the graders' rankings; equal scores share their mean rank.

    Args:
        pred: Scores, any real dtype, shape ``[N]``.
        gold: Alike.

    Returns:
        Scalar in ``[-1, 1]``, float32; NaN where undefined (either constant, or no scores).

    Raises:
        ValueError: If the shapes differ.

    Source: Spearman (1904), American Journal of Psychology 15(1), 72-101.
    """
    pred, gold = _pair(pred, gold)
    return pearson(_mean_ranks(pred), _mean_ranks(gold))


def mae(pred: Tensor, gold: Tensor) -> Tensor:
    """Mean absolute difference in points.

    Args:
        pred: Scores, any real dtype, shape ``[N]``.
        gold: Alike.

    Returns:
        Scalar of at least 0, float32; NaN without scores.

    Raises:
        ValueError: If the shapes differ.
    """
    pred, gold = _pair(pred, gold)
    return (pred - gold).abs().mean().float()


def rmse(pred: Tensor, gold: Tensor) -> Tensor:
    """Root of the mean squared difference in points.

    Args:
        pred: Scores, any real dtype, shape ``[N]``.
        gold: Alike.

    Returns:
        Scalar of at least 0, float32; NaN without scores.

    Raises:
        ValueError: If the shapes differ.
    """
    pred, gold = _pair(pred, gold)
    return (pred - gold).square().mean().sqrt().float()


def _pair(pred: Tensor, gold: Tensor) -> tuple[Tensor, Tensor]:
    # Without this check [N] against [N, 1] would broadcast to a plausible wrong number.
    if pred.ndim != 1 or pred.shape != gold.shape:
        raise ValueError(
            f"pred has shape {tuple(pred.shape)} and gold {tuple(gold.shape)}; "
            "pass two tensors of the same shape [N]"
        )
    return pred.double(), gold.double()


def _is_constant(scores: Tensor) -> bool:
    # Compared value by value: the variance of equal floats need not come out as exactly 0.
    return scores.numel() == 0 or bool((scores == scores[0]).all())


def _undefined(like: Tensor) -> Tensor:
    return torch.tensor(float("nan"), device=like.device)


def _mean_ranks(scores: Tensor) -> Tensor:
    """Rank of each score from 1, float64, shape ``[N]``; ties share the mean of their ranks."""
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks: Tensor = counts.cumsum(0) - (counts - 1).double() / 2
    return mean_ranks[inverse]
