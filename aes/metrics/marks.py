"""Grades and gold scores -> one marker's scores as columns: the total, then each trait.

Whole scores are those that the pupil is told: the awarded ones, and as total their sum, which the
rounded expected total need not equal. Totals are before deductions, as gold scores are. An answer
that could not be read counts as the least scores: the mark that an essay gets when no mark arrives.
Leaving it out would reward a model for staying silent on essays that are hard to grade. Knows
nothing of how marks are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from aes.records import Grade, Marked
from aes.rubric import Rubric


@dataclass(frozen=True)
class Marks:
    """What one marker gave to N essays; column 0 is the total, further ones are the traits.

    Attributes:
        expected: Scores with their fractions, float, shape ``[N, P]``.
        awarded: Whole scores, float, shape ``[N, P]``.
        read: 1 where there was an answer to read, else 0, shape ``[N]``.
    """

    expected: Tensor
    awarded: Tensor
    read: Tensor

    @classmethod
    def from_rows(cls, rows: Tensor, rubric: Rubric) -> Marks:
        """From ``grade_row`` of N essays, shape ``[N, 1 + 2 P]``, or from nothing."""
        rows = rows.reshape(-1, 1 + 2 * (1 + len(rubric.traits)))
        expected, awarded = rows[:, 1:].chunk(2, dim=1)
        return cls(expected, awarded, rows[:, 0])

    @classmethod
    def from_whole(cls, scores: Tensor) -> Marks:
        """From whole scores that can all be read, shape ``[N, P]``."""
        return cls(scores, scores, torch.ones_like(scores[:, 0]))

    @classmethod
    def from_totals(cls, totals: ArrayLike, rubric: Rubric) -> Marks:
        """From totals alone, shape ``[N]``; those outside the rubric's range go to its end."""
        expected = torch.as_tensor(totals, dtype=torch.float64)[:, None]
        expected = expected.clamp(rubric.minimum_total, rubric.maximum_total)
        return cls(expected, expected.round(), torch.ones_like(expected[:, 0]))

    def take(self, chosen: Tensor) -> Marks:
        """Those of some essays, by a mask or by indices."""
        return Marks(self.expected[chosen], self.awarded[chosen], self.read[chosen])


def model_marks(marked: Sequence[Marked], rubric: Rubric) -> Marks:
    """What the model gave."""
    rows = [grade_row(each.grade, rubric) for each in marked]
    return Marks.from_rows(torch.tensor(rows, dtype=torch.float64), rubric)


def gold_marks(marked: Sequence[Marked], rubric: Rubric) -> Marks:
    """What people gave.

    Raises:
        ValueError: If an essay has no gold score for a trait.
    """
    rows = [gold_row(each.id, each.gold, rubric) for each in marked]
    scores = torch.tensor(rows, dtype=torch.float64).reshape(-1, 1 + len(rubric.traits))
    return Marks.from_whole(scores)


def grade_row(grade: Grade, rubric: Rubric) -> list[float]:
    """1 if read else 0; total and traits with fractions; total and traits as whole scores."""
    if grade.parse_error:
        least = [float(trait.minimum) for trait in rubric.traits.values()]
        return [0.0, *[sum(least), *least] * 2]
    expected = [grade.expected_subtotal, *(grade.expected[name] for name in rubric.traits)]
    awarded = [float(grade.scores[name]) for name in rubric.traits]
    return [1.0, *expected, float(grade.subtotal), *awarded]


def gold_row(id: str, scores: Mapping[str, int], rubric: Rubric) -> list[float]:
    """Gold total and traits.

    Args:
        id: The essay's, for the message.

    Raises:
        ValueError: If a trait has no score.
    """
    if missing := rubric.traits.keys() - scores.keys():
        raise ValueError(
            f"essay {id} has no gold score for {sorted(missing)}; "
            "grade it without measuring agreement, or add the score to the data"
        )
    gold = [float(scores[name]) for name in rubric.traits]
    return [sum(gold), *gold]


def band_indices(totals: Tensor, rubric: Rubric) -> Tensor:
    """Band of each total, 0 for the least one; float64, shape ``[N]``."""
    starts = torch.tensor([band.minimum for band in rubric.bands], device=totals.device)
    return (totals[:, None] >= starts).sum(dim=1).double() - 1
