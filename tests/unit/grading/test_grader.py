"""Answers to Grades: totals, means and spreads are computed, bad answers are counted."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aes.grading import Grader, read_answer
from aes.metrics.grades import AgreementMetrics
from aes.records import Answer, Example
from aes.rubric import Rubric

TEXT = '{"scores":{"content":15,"language":9},"feedback":"好"}'


def test_the_total_is_computed_and_never_read(small_rubric: Rubric) -> None:
    lied = json.dumps({"total_score": 99, "scores": {"content": 15, "language": 9, "total": 98}})
    for text in (TEXT, lied):
        grade = read_answer(Answer(id="x", text=text), small_rubric)
        assert (grade.total, grade.scores) == (24, {"content": 15, "language": 9})
        assert grade.raw == text
    assert read_answer(Answer(id="x", text=TEXT), small_rubric).feedback == "好"


def test_mean_and_spread_come_from_the_distribution(small_rubric: Rubric) -> None:
    shares = {"content": (0.25,) + (0.0,) * 19 + (0.75,), "language": (0.1, 0.2, 0.4, 0.2, 0.1)}
    grade = read_answer(Answer(id="x", text=TEXT, distributions=shares), small_rubric)
    assert grade.expected == pytest.approx({"content": 15.0, "language": 10.0})
    assert grade.spread["content"] == pytest.approx(math.sqrt(0.25 * 15**2 + 0.75 * 5**2))
    assert grade.spread["language"] == pytest.approx(math.sqrt(1.2))
    assert grade.expected_total == pytest.approx(25.0)
    assert grade.total == 24


def test_without_a_distribution_the_score_itself_is_expected(small_rubric: Rubric) -> None:
    grade = read_answer(Answer(id="x", text=TEXT), small_rubric)
    assert grade.expected == {"content": 15.0, "language": 9.0}
    assert grade.spread == {"content": 0.0, "language": 0.0}
    assert grade.expected_total == 24.0


@pytest.mark.parametrize(
    "text", ["", "15分", '{"scores":{"content":15}}', '{"scores":{"content":21,"language":9}}']
)
def test_what_cannot_be_read_is_a_value_and_is_counted(small_rubric: Rubric, text: str) -> None:
    bad = read_answer(Answer(id="x", text=text), small_rubric)
    assert bad.parse_error
    assert (bad.scores, bad.raw) == ({}, text)
    assert math.isnan(bad.total)
    assert math.isnan(bad.expected_total)
    metrics = AgreementMetrics(small_rubric.ranges)
    good = read_answer(Answer(id="y", text=TEXT), small_rubric)
    gold = {"content": 15, "language": 9}
    metrics.update([bad, good, good, good], [gold] * 4)
    assert float(metrics.compute()["parse_rate"]) == 0.75


class Echo:
    """An engine whose answers are known."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def answer(self, examples: Any, *, scores_only: bool = False) -> Iterator[Answer]:
        self.asked.append(scores_only)
        for i, example in enumerate(examples):
            yield Answer(id=example.id, text=TEXT if i % 2 else "?")


def test_grades_come_in_order_as_they_are_made(small_rubric: Rubric) -> None:
    echo: Any = Echo()
    grader = Grader(engine=echo, rubric=small_rubric)
    examples = [Example(id=str(i), messages=()) for i in range(4)]
    found = list(grader.grade(examples, scores_only=True))
    assert [grade.id for grade in found] == ["0", "1", "2", "3"]
    assert [bool(grade.parse_error) for grade in found] == [True, False, True, False]
    assert echo.asked == [True]


def test_grade_is_lazy(small_rubric: Rubric, read_conf: Callable[..., Any]) -> None:
    def endless() -> Iterator[Example]:
        while True:
            yield Example(id="x", messages=())

    echo: Any = Echo()
    assert next(Grader(engine=echo, rubric=small_rubric).grade(endless())).id == "x"
