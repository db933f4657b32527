"""Predicted and gold answers of a split, over all ranks -> mean BLEU-4 and ROUGE.

Apart from ``text`` because torchmetrics takes seconds to import. Knows nothing of grades.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from aes.metrics.text import NAMES, text_scores

STEPS_PER_POINT = 10_000
"""Scores have 4 decimals, so that in these steps they are whole numbers."""


class TextMetrics(Metric):
    """Means of ``text_scores`` over batches and ranks.

    Sums are kept in whole steps of 0.0001: however the pairs lie on ranks, the result is the same
    to the last bit.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    sums: Tensor
    num_pairs: Tensor

    def __init__(self) -> None:
        """Start with no pairs."""
        super().__init__()
        zeros = torch.zeros(len(NAMES), dtype=torch.int64)
        self.add_state("sums", default=zeros, dist_reduce_fx="sum")
        self.add_state("num_pairs", default=zeros[0].clone(), dist_reduce_fx="sum")

    def update(self, preds: Sequence[str], golds: Sequence[str]) -> None:
        """Add a batch.

        Args:
            preds: What the model wrote.
            golds: What it should have written, in the same order.
        """
        for pred, gold in zip(preds, golds, strict=True):
            scores = text_scores(pred, gold)
            steps = [round(scores[name] * STEPS_PER_POINT) for name in NAMES]
            self.sums += torch.tensor(steps, device=self.sums.device)
            self.num_pairs += 1

    def compute(self) -> dict[str, Tensor]:
        """Means over everything that was added on all ranks.

        Returns:
            ``predict_bleu-4`` and so on, float64 scalars in ``[0, 100]``; NaN without pairs.
        """
        means = self.sums.double() / (STEPS_PER_POINT * self.num_pairs)
        return {f"predict_{name}": mean for name, mean in zip(NAMES, means, strict=True)}
