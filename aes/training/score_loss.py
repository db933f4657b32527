"""The distribution over a trait's valid scores -> a loss that knows how far off a score is.

Cross-entropy among digits takes 9 for as wrong as 19 where 18 is right; these do not. Summed over
traits and samples; nothing is averaged here. Knows no text and no rubric beyond the scores' count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aes.kernels.forward import allowed_logits
from aes.training.spec import ExpectedLossSpec, OrdinalLossSpec


def summed_score_loss(
    model: Any,
    states: Tensor,
    batch: Mapping[str, Tensor],
    *,
    spec: ExpectedLossSpec | OrdinalLossSpec,
    score_steps: Tensor,
) -> Tensor:
    """Score loss of a batch; traits whose score an answer does not hold add nothing.

    Args:
        states: Hidden states ``[B, T, hidden]`` of a batch as ``add_branches`` gives it.
        score_steps: ``ScoreGuide.table``.

    Returns:
        Scalar, float32.
    """
    shares = score_log_shares(model, states, batch, score_steps=score_steps)
    given = batch["gold_scores"] >= 0
    shares, gold = shares[given], batch["gold_scores"][given]
    if isinstance(spec, ExpectedLossSpec):
        return expected_loss(shares, gold)
    return ordinal_loss(shares, gold, sigma=spec.ordinal_sigma)


def score_log_shares(
    model: Any, states: Tensor, batch: Mapping[str, Tensor], *, score_steps: Tensor
) -> Tensor:
    """Logarithm of the exact probability of every valid score, given the gold scores before it.

    Returns:
        ``[B, traits, scores]``, float32, counted from the trait's lowest; ``-inf`` where a trait
        has fewer scores, of no meaning where the answer does not hold the trait.
    """
    places = batch["node_places"]
    there = places >= 0
    rows = torch.arange(len(places), device=places.device)[:, None, None].expand_as(places)
    allowed = score_steps.to(places.device)[batch["node_steps"][there]]
    found = allowed_logits(model, states[rows[there], places[there]], allowed)
    choices = found.new_zeros(*places.shape, allowed.shape[1])
    choices[there] = found.masked_fill(allowed < 0, float("-inf")).log_softmax(dim=1)
    return sum_paths(choices, batch["score_paths"])


def sum_paths(choices: Tensor, paths: Tensor) -> Tensor:
    """Log-probabilities of choices at the nodes of trees -> log-probabilities of whole paths.

    Args:
        choices: ``[B, traits, nodes, most]``.
        paths: ``ScoreGuide.paths``, int64 ``[traits, scores, choices]``.

    Returns:
        ``[B, traits, scores]``; ``-inf`` where there is no such path.
    """
    # One 0 more, for what paths are filled up with.
    flat = functional.pad(choices.flatten(2), (0, 1))
    filled = paths < 0
    at = paths.masked_fill(filled, flat.shape[2] - 1).expand(len(flat), -1, -1, -1)
    shares = flat.gather(2, at.flatten(2)).reshape(at.shape).sum(dim=3)
    return shares.masked_fill(filled.all(dim=2), float("-inf"))


def expected_loss(shares: Tensor, gold: Tensor) -> Tensor:
    """Squared error of the mean score, in units of the trait's range, summed.

    Args:
        shares: Log-probabilities ``[N, scores]``; ``-inf`` where there is no such score.
        gold: Scores counted from the lowest, int64 ``[N]``.

    Source: Lukasik et al., "Better autoregressive regression with LLMs via regression-aware
        fine-tuning", ICLR 2025: the squared error of the mean under the model.
    """
    points = torch.arange(shares.shape[1], device=shares.device, dtype=shares.dtype)
    mean = (shares.exp() * points).sum(dim=1)
    return ((mean - gold) / _range(shares)).square().sum()


def ordinal_loss(shares: Tensor, gold: Tensor, *, sigma: float) -> Tensor:
    """Cross-entropy against labels that fall off with the distance from gold, summed.

    Args:
        shares: Log-probabilities ``[N, scores]``; ``-inf`` where there is no such score.
        gold: Scores counted from the lowest, int64 ``[N]``.
        sigma: Width of the labels' bell, a share of the trait's range.

    Source: Diaz and Marathe, "Soft labels for ordinal regression", CVPR 2019, with the squared
        distance.
    """
    points = torch.arange(shares.shape[1], device=shares.device, dtype=shares.dtype)
    distance = (points - gold[:, None]) / (sigma * _range(shares)[:, None])
    none = shares == float("-inf")
    labels = (-distance.square() / 2).masked_fill(none, float("-inf")).softmax(dim=1)
    return -(labels * shares.masked_fill(none, 0)).sum()


def _range(shares: Tensor) -> Tensor:
    """Points from each row's lowest to its highest score."""
    return (shares > float("-inf")).sum(dim=1) - 1
