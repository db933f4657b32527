"""Grades beside gold scores -> maps that calibrate, and what they do to essays not fitted on.

Knows scores and where essays come from; knows no file. Two methods:

- ``linear`` moves mean and standard deviation of the expected scores to those of the gold scores.
  A least-squares line would multiply that slope by the correlation, so that grades crowd around
  the mean, where nobody gets full marks. Linking keeps the spread of grades that markers give,
  which mostly raises kappa, and pays with a larger squared error: a report shows both.
  Source: Kolen and Brennan (2014), Test Equating, Scaling, and Linking, 3rd ed., chapter 2.
- ``isotonic`` is the map that never falls and has the least squared error. It bends where the
  model is too mild at one end, needs more essays, and does shrink the spread of grades.
  Source: Barlow et al. (1972), Statistical Inference under Order Restrictions, chapter 1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aes.grading.calibration import Calibration, Curve, Method
from aes.records import Marked
from aes.rubric import Rubric

MIN_SOURCES = 10
"""A standard deviation of ten scores is uncertain by 24 % (1 / sqrt(2 (n - 1))), of fewer, more."""

_MIN_SPREAD_POINTS = 0.01
"""Expected scores nearer to each other than this differ by the arithmetic of bf16, not by merit."""

_Scores = NDArray[np.float64]


def fit_calibration(marked: Sequence[Marked], rubric: Rubric, method: Method) -> Calibration:
    """Maps from expected to gold scores, trait by trait.

    Too few essays, or scores that are all alike, are no error: the trait then keeps its scores,
    and ``Calibration.unchanged`` says why.

    Args:
        marked: Graded essays that the model was not trained on. Those without a readable answer
            or without gold scores do not count.
        rubric: Which they were graded under.
        method: ``linear`` or ``isotonic``.
    """
    usable = [
        m for m in marked if not m.grade.parse_error and m.gold.keys() >= rubric.ranges.keys()
    ]
    num_sources = len({_source(m) for m in usable})
    curves, unchanged = {}, {}
    for name, ends in rubric.ranges.items():
        raw = np.array([m.grade.expected[name] for m in usable], dtype=np.float64)
        gold = np.array([m.gold[name] for m in usable], dtype=np.float64)
        if reason := _why_not(raw, gold, num_sources):
            unchanged[name] = reason
        elif method == "linear":
            curves[name] = _linear(raw, gold, ends)
        else:
            curves[name] = _isotonic(raw, gold)
    return Calibration(
        method=method,
        curves=curves,
        unchanged=unchanged,
        num_essays=len(usable),
        num_sources=num_sources,
    )


def cross_fit(
    marked: Sequence[Marked], rubric: Rubric, method: Method, *, num_folds: int, seed: int
) -> list[Marked]:
    """Each essay calibrated by maps that were fitted without it or any copy of it.

    What a calibration does to new essays cannot be seen on those that it was fitted on.

    Args:
        marked: As for ``fit_calibration``. Where all have a cross-validation fold and there are
            several, the folds are left out in turn; otherwise sources are dealt into ``num_folds``.
        num_folds: At least 2.
        seed: Deals the sources.

    Returns:
        In the same order. Essays of a fold that had too few others stay as they are.

    Raises:
        ValueError: If there are fewer than 2 folds.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2 to calibrate across folds, got {num_folds}")
    folds = _folds(marked, num_folds=num_folds, seed=seed)
    calibrated = list(marked)
    for fold in set(folds):
        held_out = [i for i, other in enumerate(folds) if other == fold]
        # By source, not by fold: folds that were made elsewhere may share one.
        own = {_source(marked[i]) for i in held_out}
        others = [m for m in marked if _source(m) not in own]
        calibration = fit_calibration(others, rubric, method)
        for i in held_out:
            calibrated[i] = calibration.apply_to(marked[i], rubric)
    return calibrated


def _folds(marked: Sequence[Marked], *, num_folds: int, seed: int) -> list[int]:
    given = [m.fold for m in marked if m.fold is not None]
    if len(given) == len(marked) and len(set(given)) > 1:
        return given
    sources = sorted({_source(m) for m in marked})
    random.Random(seed).shuffle(sources)
    dealt = {source: i % num_folds for i, source in enumerate(sources)}
    return [dealt[_source(m)] for m in marked]


def _source(marked: Marked) -> str:
    return marked.source or marked.id


def _why_not(raw: _Scores, gold: _Scores, num_sources: int) -> str:
    if num_sources < MIN_SOURCES:
        return f"{num_sources} essays are too few to fit on; it takes {MIN_SOURCES}"
    if raw.std() < _MIN_SPREAD_POINTS:
        return f"the model gives all {num_sources} essays the same score"
    if gold.std() == 0:
        return f"all {num_sources} essays have the same gold score"
    return ""


def _linear(raw: _Scores, gold: _Scores, ends: tuple[int, int]) -> Curve:
    slope = gold.std() / raw.std()
    # Two knots at the ends of the range make the line; clipping bends it there.
    low, high = (float(gold.mean() + slope * (end - raw.mean())) for end in ends)
    return Curve(raw=(float(ends[0]), float(ends[1])), calibrated=(low, high))


def _isotonic(raw: _Scores, gold: _Scores) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression().fit(raw, gold)
    return Curve(
        raw=tuple(fitted.X_thresholds_.tolist()), calibrated=tuple(fitted.y_thresholds_.tolist())
    )
