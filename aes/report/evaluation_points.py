"""Marked essays -> arrays that figures and lists are made from: gold, predicted, error, length.

The totals are those that the metrics compare: before deductions, the expected one, or the awarded
one for whole points and bands, and the least total for an answer that could not be read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aes.metrics.results import Agreement, Evaluation
from aes.records import Marked
from aes.rubric import Rubric

FloatArray = NDArray[np.float64]

_SAME_POINTS = 1e-6
"""Totals nearer than this differ by the order in which traits were added up."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """One entry an essay, in the order of the data, shape ``[N]``.

    Attributes:
        gold: Gold total, points; NaN where unknown.
        pred: Predicted total, points; the rubric's least where the answer could not be read.
        awarded: The same as whole points, the sum of the awarded scores.
        read: Whether the answer could be read.
        uncertainty: Standard deviation of the predicted total, points; NaN where unknown.
        num_chars: Length of the essay; 0: not known.
        sources: Essay that each was made from.
    """

    gold: FloatArray
    pred: FloatArray
    awarded: FloatArray
    read: NDArray[np.bool_]
    uncertainty: FloatArray
    num_chars: FloatArray
    sources: tuple[str, ...]

    @property
    def error(self) -> FloatArray:
        """Predicted less gold, points."""
        return self.pred - self.gold

    @property
    def graded(self) -> NDArray[np.bool_]:
        """Where there are both a readable prediction and a gold total."""
        return self.read & np.isfinite(self.pred) & np.isfinite(self.gold)


def collect_points(marked: Sequence[Marked], rubric: Rubric) -> Points:
    """The numbers of each essay."""
    return Points(
        gold=np.array([gold_total(m, rubric) for m in marked], dtype=np.float64),
        pred=np.array([pred_total(m, rubric) for m in marked], dtype=np.float64),
        awarded=np.array([awarded_total(m, rubric) for m in marked], dtype=np.float64),
        read=np.array([not m.grade.parse_error for m in marked], dtype=np.bool_),
        uncertainty=np.array([m.grade.uncertainty for m in marked], dtype=np.float64),
        num_chars=np.array([m.num_chars for m in marked], dtype=np.float64),
        sources=tuple(m.source for m in marked),
    )


def gold_total(marked: Marked, rubric: Rubric) -> float:
    """Sum of the gold scores; NaN if one is missing."""
    return sum(float(marked.gold.get(trait, float("nan"))) for trait in rubric.traits)


def pred_total(marked: Marked, rubric: Rubric) -> float:
    """Expected total before deductions; the least total if the answer could not be read."""
    grade = marked.grade
    return float(rubric.minimum_total) if grade.parse_error else grade.expected_subtotal


def awarded_total(marked: Marked, rubric: Rubric) -> float:
    """Sum of the awarded scores; the least total if the answer could not be read."""
    grade = marked.grade
    return float(rubric.minimum_total) if grade.parse_error else grade.subtotal


def changed_totals(evaluation: Evaluation, rubric: Rubric) -> dict[str, FloatArray]:
    """Calibrated totals, points, shape ``[N]``, of the methods that changed any total."""
    graded = np.array([pred_total(m, rubric) for m in evaluation.marked], dtype=np.float64)
    found = {
        method: np.array(totals, dtype=np.float64)
        for method, totals in evaluation.calibrated_totals.items()
    }
    return {
        method: totals
        for method, totals in found.items()
        if (np.abs(totals - graded) > _SAME_POINTS).any()
    }


def shown_calibrations(evaluation: Evaluation, rubric: Rubric) -> dict[str, Agreement]:
    """Agreement after calibration, of the methods that are not known to have changed nothing."""
    changed = changed_totals(evaluation, rubric)
    return {
        method: agreement
        for method, agreement in evaluation.calibrated.items()
        if method in changed or method not in evaluation.calibrated_totals
    }


def worst(marked: Sequence[Marked], rubric: Rubric, num: int) -> list[Marked]:
    """The essays that were read and whose totals are furthest from gold, the worst first."""
    points = collect_points(marked, rubric)
    error = np.where(points.graded, np.abs(points.error), -1.0)
    # Stable, so that equal errors keep the order of the data.
    order = np.argsort(-error, kind="stable")[:num]
    return [marked[i] for i in order if points.graded[i]]


def feedback_of(answer: str) -> str | None:
    """The comment in an answer of the usual form; ``None`` if the answer is no such JSON."""
    try:
        data: Any = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    feedback = data.get("feedback", "") if isinstance(data, dict) else None
    return feedback if isinstance(feedback, str) else None


def bins_of(values: FloatArray, num_bins: int) -> list[NDArray[np.intp]]:
    """Indices of the values, from small to large, in bins of about equal size, none empty."""
    order = np.argsort(values, kind="stable")
    return [part for part in np.array_split(order, max(1, num_bins)) if len(part)]
