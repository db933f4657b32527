"""Grades of a validation split, over all ranks -> ``qwk/total``, ``qwk/<trait>`` and so on.

Gathers what ``aes.metrics.measure`` then measures. Apart from it because torchmetrics takes
seconds to import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from aes.metrics.marks import Marks, gold_row, grade_row
from aes.metrics.measure import agreement_metrics
from aes.records import Grade
from aes.rubric import Rubric

_IN_TRAINING = ("mae/total", "rmse/total", "pearson/total", "spearman/total", "parse_rate")


class AgreementMetrics(Metric):
    """Agreement of Grades with gold scores, gathered over batches and ranks.

    Names and meanings are those of ``aes.metrics.measure``; unread answers count as the least
    scores, and ``parse_rate`` says how many they are. Arbitration is left to reports.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    rows: list[Tensor]

    def __init__(self, rubric: Rubric) -> None:
        """Start with no grades.

        Args:
            rubric: What is graded by.
        """
        super().__init__()
        self.rubric = rubric
        # One flat float32 list, so that ranks meet in one gather, and so that a rank without
        # grades, for which torchmetrics sends an empty float vector, fits the others.
        # A row: ``grade_row``, then ``gold_row``.
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, grades: Sequence[Grade], gold: Sequence[Mapping[str, int]]) -> None:
        """Add a batch.

        Args:
            grades: Read answers; those with a ``parse_error`` count as the least scores.
            gold: Gold scores of the same essays by trait.

        Raises:
            ValueError: If an essay has no gold score for a trait.
        """
        for grade, scores in zip(grades, gold, strict=True):
            row = grade_row(grade, self.rubric) + gold_row(grade.id, scores, self.rubric)
            self.rows.append(torch.tensor(row, dtype=torch.float32, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Agreement over everything that was added on all ranks.

        Returns:
            Float32 scalars by name; NaN where undefined.

        Raises:
            ValueError: If a gold score is outside its range.
        """
        num_parts = 1 + len(self.rubric.traits)
        flat = dim_zero_cat(self.rows) if len(self.rows) else torch.empty(0, device=self.device)
        rows = flat.reshape(-1, 1 + 3 * num_parts)
        return agreement_metrics(
            Marks.from_rows(rows[:, :-num_parts], self.rubric),
            Marks.from_whole(rows[:, -num_parts:]),
            rubric=self.rubric,
            threshold=None,
        )


def validation_names(names: Iterable[str]) -> list[str]:
    """Those of some metrics that training logs: few enough to be read at every validation."""
    return [name for name in names if name.startswith("qwk/") or name in _IN_TRAINING]
