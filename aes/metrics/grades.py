"""Grades of a validation split, over all ranks -> ``qwk/total``, ``qwk/<trait>`` and so on.

Knows the ranges of a rubric's traits, not how a grade was made. Apart from ``agreement`` because
torchmetrics takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from aes.metrics.agreement import mae, pearson, quadratic_kappa
from aes.records import Grade


class AgreementMetrics(Metric):
    """Agreement of Grades with gold scores, gathered over batches and ranks.

    An answer that could not be read counts as the least score of every trait: the mark that an
    essay gets when no mark arrives. Leaving it out would reward a model for staying silent on
    essays that are hard to grade. ``parse_rate`` says how many answers this concerns.

    ``qwk/<trait>`` compares awarded scores, ``qwk/total`` the rounded expected total,
    ``mae/total`` and ``pearson/total`` the expected total as it is.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    rows: list[Tensor]

    def __init__(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        """Start with no grades.

        Args:
            ranges: Lowest and highest score of each trait, as ``Rubric.ranges``.
        """
        super().__init__()
        self.ranges = dict(ranges)
        # One flat float32 list, so that ranks meet in one gather, and so that a rank without
        # grades, for which torchmetrics sends an empty float vector, fits the others.
        # A row: 1 if read else 0, expected total, awarded scores, gold scores.
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
            if missing := self.ranges.keys() - scores.keys():
                raise ValueError(
                    f"essay {grade.id} has no gold score for {sorted(missing)}; "
                    "grade it without measuring agreement, or add the score to the data"
                )
            row = self._row(grade) + [float(scores[trait]) for trait in self.ranges]
            self.rows.append(torch.tensor(row, dtype=torch.float32, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Agreement over everything that was added on all ranks.

        Returns:
            Float32 scalars by name; NaN where undefined.
        """
        num_traits = len(self.ranges)
        flat = dim_zero_cat(self.rows) if len(self.rows) else torch.empty(0, device=self.device)
        rows = flat.reshape(-1, 2 + 2 * num_traits)
        read, expected = rows[:, 0], rows[:, 1]
        pred, gold = rows[:, 2 : 2 + num_traits].long(), rows[:, 2 + num_traits :].long()
        low, high = (sum(ends) for ends in zip(*self.ranges.values(), strict=True))
        gold_total = gold.sum(dim=1)
        metrics = {"qwk/total": _kappa(expected.round().long(), gold_total, low, high)}
        for i, (trait, (least, most)) in enumerate(self.ranges.items()):
            metrics[f"qwk/{trait}"] = _kappa(pred[:, i], gold[:, i], least, most)
        return metrics | {
            "mae/total": mae(expected, gold_total),
            "pearson/total": pearson(expected, gold_total),
            "parse_rate": read.mean(),
        }

    def _row(self, grade: Grade) -> list[float]:
        if grade.parse_error:
            least = [float(low) for low, _ in self.ranges.values()]
            return [0.0, sum(least), *least]
        return [1.0, grade.expected_total, *(float(grade.scores[t]) for t in self.ranges)]


def _kappa(pred: Tensor, gold: Tensor, low: int, high: int) -> Tensor:
    return quadratic_kappa(pred - low, gold - low, num_grades=high - low + 1)
