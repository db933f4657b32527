"""A run is ahead of another by what pairing can show, and by no more."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import pytest

from aes.metrics.comparison import compare_runs
from aes.metrics.measure import measure
from aes.records import Grade, Marked
from aes.rubric import Rubric


def marked(rubric: Rubric, number: int, error: int) -> Marked:
    gold = {"content": 3 + number % 14, "language": 8 + number % 5}
    scores = gold | {"content": gold["content"] + error}
    expected = {name: float(score) for name, score in scores.items()}
    total = sum(scores.values())
    grade = Grade(
        id=f"e{number}",
        scores=scores,
        expected=expected,
        subtotal=total,
        expected_subtotal=total,
        total=total,
    )
    return Marked(
        id=f"e{number}", source=f"e{number // 2}", group="", num_chars=0,
        gold=gold, gold_text="", grade=grade,
    )  # fmt: skip


@pytest.fixture
def options(small_rubric: Rubric) -> dict[str, object]:
    return {"rubric": small_rubric, "threshold": 3.0, "num_resamples": 200, "seed": 1}


def test_differences_are_those_of_the_two_measured_alone(
    small_rubric: Rubric, options: dict[str, object]
) -> None:
    first = [marked(small_rubric, i, -2 if i % 3 else 2) for i in range(40)]
    other = [marked(small_rubric, i, 1 if i % 5 else -1) for i in range(40)]
    found = compare_runs(first, other, **options)  # type: ignore[arg-type]
    alone = [measure(graded, **options) for graded in (first, other)]  # type: ignore[arg-type]
    assert found.agreement == alone[1]
    for name, value in found.difference.metrics.items():
        expected = alone[1].metrics[name] - alone[0].metrics[name]
        assert value == pytest.approx(expected, abs=1e-6) or isnan(expected), name
    assert found.difference.num == 40 and found.difference.num_sources == 20


def test_pairing_shows_what_the_two_intervals_cannot(
    small_rubric: Rubric, options: dict[str, object]
) -> None:
    """Hard essays are hard for both, so errors vary much and their difference not at all."""
    errors = [abs(i * 7 % 6 - 3) for i in range(40)]
    first = [marked(small_rubric, i, -(error - 1)) for i, error in enumerate(errors)]
    other = [replace(one, grade=marked(small_rubric, i, -error).grade)
             for i, (one, error) in enumerate(zip(first, errors, strict=True))]  # fmt: skip
    options["seed"] = 2
    found = compare_runs(other, first, **options)  # type: ignore[arg-type]
    shift = found.difference.intervals["mean_shift/total"]
    assert shift.low == pytest.approx(1) and shift.high == pytest.approx(1)
    both = [measure(graded, **options) for graded in (first, other)]  # type: ignore[arg-type]
    alone = both[0].intervals["mean_shift/total"]
    assert alone.high - alone.low > 0.2


def test_only_essays_that_both_graded_count(
    small_rubric: Rubric, options: dict[str, object]
) -> None:
    first = [marked(small_rubric, i, 1) for i in range(10)]
    found = compare_runs(first, first[4:], **options)  # type: ignore[arg-type]
    assert found.agreement.num == found.difference.num == 6
    assert found.difference.metrics["mae/total"] == 0
