"""The loss of a batch, summed over its supervised tokens; nothing is averaged here.

Cross-entropy of tokens, alone or mixed with a loss on whole scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aes.data.collate import IGNORED
from aes.data.processor import FREE_STEP
from aes.kernels.forward import allowed_logits, hidden_states
from aes.kernels.logits import summed_cross_entropy
from aes.training.score_loss import summed_score_loss
from aes.training.spec import ExpectedLossSpec, LossSpec, OrdinalLossSpec


def summed_loss(
    model: Any,
    batch: Mapping[str, Tensor],
    *,
    spec: LossSpec,
    score_steps: Tensor,
    logit_rows: int | None = None,
) -> Tensor:
    """Loss summed over the supervised tokens of a batch, and over its scores where they count.

    Args:
        batch: As ``Collator`` gives it; for a loss on scores as ``add_branches`` gives it.
        score_steps: ``ScoreGuide.table``: allowed token ids by step, filled up with -1.
        logit_rows: Rows of logits that are there at once; ``None``: all.

    Returns:
        Scalar, float32.
    """
    if not isinstance(spec, ExpectedLossSpec | OrdinalLossSpec):
        states = hidden_states(model, batch)
        return _token_loss(model, states, batch, spec, score_steps, logit_rows)
    states = hidden_states(model, {**batch, "attention_mask": batch["branch_mask"]})
    # What a comment weighs does not change with the weight of the scores.
    token_loss = _token_loss(
        model, states, batch, spec, score_steps, logit_rows, digit_weight=1 - spec.score_weight
    )
    score_loss = summed_score_loss(model, states, batch, spec=spec, score_steps=score_steps)
    return token_loss + spec.score_weight * score_loss


def _token_loss(
    model: Any,
    states: Tensor,
    batch: Mapping[str, Tensor],
    spec: LossSpec,
    score_steps: Tensor,
    logit_rows: int | None,
    *,
    digit_weight: float = 1.0,
) -> Tensor:
    """Cross-entropy summed over the supervised tokens of a batch; digits times their weight."""
    targets = batch["labels"][:, 1:]
    supervised = targets != IGNORED
    # Rows are chosen before the head is applied: logits are the largest tensor of a step.
    states, targets = states[:, :-1][supervised], targets[supervised]
    steps = batch["steps"][:, 1:][supervised]
    free, at_score = steps == FREE_STEP, steps >= 0
    if spec.name == "ce":
        weights = torch.where(free, spec.feedback_weight, 1.0)
        return summed_cross_entropy(model, states, targets, weights=weights, rows=logit_rows)
    # What the answer's form prescribes is written by the decoder, not by the model: among one
    # valid token the loss is 0.
    loss = spec.feedback_weight * summed_cross_entropy(
        model, states[free], targets[free], rows=logit_rows
    )
    allowed = score_steps.to(steps.device)[steps[at_score]]
    return loss + digit_weight * valid_digits_loss(
        allowed_logits(model, states[at_score], allowed), targets[at_score], allowed
    )


def valid_digits_loss(scores: Tensor, targets: Tensor, allowed: Tensor) -> Tensor:
    """Cross-entropy among the tokens that a valid score allows, summed.

    Args:
        scores: Logits of the allowed tokens, float32 ``[N, most]``.
        targets: Token ids, int64 ``[N]``; each is among its row's allowed ones.
        allowed: Token ids, int64 ``[N, most]``, filled up with -1.
    """
    chosen = scores.masked_fill(allowed < 0, float("-inf"))
    places = allowed == targets[:, None]
    assert bool(places.sum(dim=1).eq(1).all()), "a gold score is not among the valid ones"
    return functional.cross_entropy(chosen, places.int().argmax(dim=1), reduction="sum")
