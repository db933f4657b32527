"""Answers to Grades: totals, means and spreads are computed, bad answers are counted."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sized
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from aes.grading import Grader, read_answer
from aes.grading.calibration import Calibration, Curve
from aes.grading.journal import Journal, write_lines
from aes.metrics.grades import AgreementMetrics
from aes.prompt.build import ExampleBuilder
from aes.records import Answer, Essay, Example, Marked
from aes.rubric import Deductions, Rubric

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
    assert grade.expected_subtotal == pytest.approx(25.0)
    assert grade.total == 24


def test_without_a_distribution_the_score_itself_is_expected(small_rubric: Rubric) -> None:
    grade = read_answer(Answer(id="x", text=TEXT), small_rubric)
    assert grade.expected == {"content": 15.0, "language": 9.0}
    assert grade.expected_subtotal == 24.0


@pytest.mark.parametrize("known", [(), ("language",)])
def test_what_is_not_known_is_no_certainty(
    strict_rubric: Rubric, known: tuple[str, ...], tmp_path: Path
) -> None:
    """Nor does it become one by calibration, or on its way through a file."""
    shares = dict.fromkeys(known, (0.0, 0.5, 0.5, 0.0, 0.0))
    maps = {"content": Curve(raw=(0.0, 20.0), calibrated=(0.0, 10.0))}
    calibration = Calibration(
        method="linear", curves=maps, unchanged={}, num_essays=10, num_sources=10
    )
    answer = Answer(id="x", text=TEXT, distributions=shares)
    for used in (None, calibration):
        grade = read_answer(answer, strict_rubric, calibration=used)
        assert grade.spread == pytest.approx(dict.fromkeys(known, 0.5))
        assert math.isnan(grade.uncertainty)
        facts: Any = {"source": "x", "group": "", "num_chars": 1, "gold": {}, "gold_text": ""}
        path = tmp_path / f"{used is None}.jsonl"
        Journal(path, {}, fresh=False)
        write_lines(path, [Marked(id="x", grade=grade, **facts)])
        (line,) = path.read_text().splitlines()
        assert "NaN" not in line
        assert json.loads(line)["uncertainty"] is None
        again = Journal(path, {}, fresh=False).marked["x"].grade
        assert again.spread == grade.spread
        assert math.isnan(again.uncertainty)
    assert grade.scores["content"] == 8


@pytest.mark.parametrize(
    "text", ["", "15分", '{"scores":{"content":15}}', '{"scores":{"content":21,"language":9}}']
)
def test_what_cannot_be_read_is_a_value_and_is_counted(small_rubric: Rubric, text: str) -> None:
    bad = read_answer(Answer(id="x", text=text), small_rubric)
    assert bad.parse_error
    assert (bad.scores, bad.raw) == ({}, text)
    assert math.isnan(bad.total)
    assert math.isnan(bad.expected_subtotal)
    metrics = AgreementMetrics(small_rubric)
    good = read_answer(Answer(id="y", text=TEXT), small_rubric)
    gold = {"content": 15, "language": 9}
    metrics.update([bad, good, good, good], [gold] * 4)
    assert float(metrics.compute()["parse_rate"]) == 0.75


class Echo:
    """An engine whose answers are known."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.labels: list[str | None] = []
        self.sizes: list[int] = []
        self.totals: list[int | None] = []

    def answer(
        self,
        examples: Any,
        *,
        scores_only: bool = False,
        progress: str | None = None,
        total: int | None = None,
    ) -> Iterator[Answer]:
        self.totals.append(total)
        self.asked.append(scores_only)
        self.labels.append(progress)
        if isinstance(examples, Sized):
            self.sizes.append(len(examples))
        source = iter(examples)
        # In batches, so that more examples have been taken than answered.
        for start in count(0, 3):
            batch = list(islice(source, 3))
            for i, example in enumerate(batch, start):
                yield Answer(id=example.id, text=TEXT if i % 2 else "?")
            if not batch:
                return


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


RULES = {
    "missing_title": 2,
    "wrong_character": 1,
    "wrong_characters_free": 0,
    "wrong_characters_maximum": 5,
    "expected_chars": 0,
    "short_points": 0,
    "short_step_chars": 50,
    "caps": ({"below_chars": 100, "total": 12},),
}


@pytest.fixture
def strict_rubric(small_rubric: Rubric) -> Rubric:
    """The small rubric, with deductions."""
    return replace(small_rubric, deductions=Deductions(**RULES))  # type: ignore[arg-type]


def test_facts_of_each_example_are_taken_off_its_own_grade(strict_rubric: Rubric) -> None:
    echo: Any = Echo()
    examples = [
        Example(id=str(i), messages=(), has_title=i != 3, num_chars=50 if i == 5 else 500)
        for i in range(6)
    ]
    grades = list(Grader(engine=echo, rubric=strict_rubric).grade(examples))
    assert [grade.total for grade in grades[1::2]] == [24, 22, 12]
    assert [[item.code for item in g.deductions] for g in grades[1::2]] == [
        [], ["missing_title"], ["cap"]
    ]  # fmt: skip
    assert all(grade.subtotal == 24 for grade in grades[1::2])
    assert all(grade.deductions == () for grade in grades[::2])


def test_calibration_comes_before_deductions(strict_rubric: Rubric) -> None:
    # Every subtotal falls to the least; a deduction of the old subtotal would go below it.
    curve = Curve(raw=(0.0, 20.0), calibrated=(0.0, 0.0))
    least = Curve(raw=(8.0, 12.0), calibrated=(8.0, 8.0))
    calibration = Calibration(
        method="linear",
        curves={"content": curve, "language": least},
        unchanged={},
        num_essays=10,
        num_sources=10,
    )
    example = Example(id="x", messages=(), has_title=False)
    answer = Answer(id="x", text=TEXT)
    grade = read_answer(answer, strict_rubric, example, calibration=calibration)
    assert (grade.subtotal, grade.total, grade.deductions) == (8, 8, ())
    plain = read_answer(answer, strict_rubric, example)
    assert (plain.subtotal, plain.total) == (24, 22)
    echo: Any = Echo()
    grader = Grader(engine=echo, rubric=strict_rubric, calibration=calibration)
    assert [g.total for g in grader.grade([example] * 4)][1::2] == [8, 8]


def test_without_an_example_nothing_is_taken_off(strict_rubric: Rubric) -> None:
    assert read_answer(Answer(id="x", text=TEXT), strict_rubric).deductions == ()


def test_essays_are_graded_as_typed(
    builder: ExampleBuilder, strict_rubric: Rubric, essays: tuple[Essay, ...]
) -> None:
    echo: Any = Echo()
    grader = Grader(engine=echo, rubric=strict_rubric, builder=builder)
    grades = list(grader.grade_essays(essays, scores_only=True))
    assert [grade.id for grade in grades] == [essay.id for essay in essays]
    untitled = {g.id for g in grades if any(d.code == "missing_title" for d in g.deductions)}
    assert untitled == {e.id for i, e in enumerate(essays) if i % 2 and not e.title}
    assert untitled
    assert (echo.asked, echo.sizes) == ([True], [len(essays)])
    # As text, since an uncertainty that is not known is unlike itself.
    assert repr(list(grader.grade_essays(iter(essays)))) == repr(grades)


def test_progress_reaches_the_engine(small_rubric: Rubric) -> None:
    echo: Any = Echo()
    grader = Grader(engine=echo, rubric=small_rubric)
    list(grader.grade([Example(id="x", messages=())]))
    list(grader.grade([Example(id="x", messages=())], progress="grading"))
    assert echo.labels == [None, "grading"]
    # The bar needs to know how many there are.
    list(grader.grade(iter([Example(id="x", messages=())])))
    assert echo.sizes == [1, 1]
    list(grader.grade(iter([Example(id="x", messages=())]), total=7))
    assert echo.totals == [None, None, None, 7]


def test_free_text_has_no_grade(small_rubric: Rubric) -> None:
    echo: Any = Echo()
    examples = [Example(id="a", messages=()), Example(id="b", messages=(), kind="text")]
    with pytest.raises(ValueError, match="sample b asks for free text"):
        list(Grader(engine=echo, rubric=small_rubric).grade(examples))


def test_the_package_imports_without_torch() -> None:
    code = "import sys, aes.grading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
