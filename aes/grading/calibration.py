"""A Grade -> the Grade that a marker would have given, by a map for each trait.

Applies maps; does not know where they were fitted (``aes.grading.calibration_fit``) nor where they
are kept (``aes.grading.calibration_file``).
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from aes.grading.deductions import fit_deductions, with_deductions, with_sums
from aes.records import Grade, Marked
from aes.rubric import Rubric

Method = Literal["linear", "isotonic"]

_SCHEMA = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class Curve:
    """A map that never falls: straight between its knots, flat beyond the first and the last.

    Attributes:
        raw: Expected scores as the model gives them, ascending.
        calibrated: What becomes of them; may leave the trait's range, to which it is clipped.
    """

    raw: Annotated[tuple[float, ...], Field(min_length=1)]
    calibrated: tuple[float, ...]

    @model_validator(mode="after")
    def _rises(self) -> Curve:
        if len(self.raw) != len(self.calibrated):
            raise ValueError(f"{len(self.raw)} raw scores, {len(self.calibrated)} calibrated ones")
        if any(a >= b for a, b in pairwise(self.raw)):
            raise ValueError("raw scores must ascend")
        if any(a > b for a, b in pairwise(self.calibrated)):
            raise ValueError("calibrated scores must not fall")
        return self

    def at(self, score: float, ends: tuple[int, int]) -> float:
        """The calibrated score, within ``ends``, the trait's lowest and highest."""
        low, high = ends
        return min(max(float(np.interp(score, self.raw, self.calibrated)), low), high)

    def spread_at(self, score: float, spread: float, ends: tuple[int, int]) -> float:
        """The spread around ``score`` after calibration.

        It grows by the map's mean slope over one spread on either side. The slope at the point
        would not do: an isotonic map is flat in many places, and no grade becomes certain there.
        """
        low, high = max(score - spread, ends[0]), min(score + spread, ends[1])
        if low >= high:
            return spread
        return spread * (self.at(high, ends) - self.at(low, ends)) / (high - low)


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class Calibration:
    """Maps of all traits of a rubric, fitted by one method.

    Attributes:
        method: How they were fitted.
        curves: By trait.
        unchanged: Why there is no map, by trait; scores of these stay as they are.
        num_essays: Graded essays that they were fitted on.
        num_sources: Independent essays among them, copies of one counted once.
    """

    method: Method
    curves: dict[str, Curve]
    unchanged: dict[str, str]
    num_essays: Annotated[int, Field(ge=0)]
    num_sources: Annotated[int, Field(ge=0)]

    def apply(self, grade: Grade, rubric: Rubric, *, num_chars: int = 0) -> Grade:
        """The calibrated Grade.

        Expected scores go through the maps; scores are these rounded half up, also where the
        model's were its likeliest digits. A spread that is not known stays unknown. Line items
        stay as they were counted and the cap is found anew. An item that was cut short at the
        least total stays as short as that: to have it whole, calibrate before anything is taken
        off, as ``Grader`` does.

        Args:
            grade: One that could not be read is returned as it is.
            rubric: With the traits that the maps were fitted for.
            num_chars: Length of the essay, for the cap; 0: not known.
        """
        if grade.parse_error:
            return grade
        scores, expected, spread = dict(grade.scores), dict(grade.expected), dict(grade.spread)
        for name, curve in self.curves.items():
            ends = rubric.ranges[name]
            if name in spread:
                spread[name] = curve.spread_at(expected[name], spread[name], ends)
            expected[name] = curve.at(expected[name], ends)
            scores[name] = math.floor(expected[name] + 0.5)
        calibrated = with_sums(
            replace(grade, scores=scores, expected=expected, spread=spread), rubric
        )
        items = fit_deductions(
            grade.deductions, calibrated.subtotal, num_chars=num_chars, rubric=rubric
        )
        return with_deductions(calibrated, items)

    def apply_to(self, marked: Marked, rubric: Rubric) -> Marked:
        """The same essay with its calibrated Grade."""
        grade = self.apply(marked.grade, rubric, num_chars=marked.num_chars)
        return replace(marked, grade=grade)
