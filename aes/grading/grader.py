"""Engine and Rubric: Examples to Grades, with totals computed here and never by the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from typing import TYPE_CHECKING

from aes.grading.calibration import Calibration
from aes.grading.deductions import deduct, with_deductions, with_sums
from aes.prompt import AnswerSchema
from aes.records import NO_ANSWER, Answer, Essay, Example, Grade
from aes.rubric import Rubric

if TYPE_CHECKING:  # torch takes seconds to import, and this package holds a settings class
    from aes.inference.engine import Engine
    from aes.prompt.build import ExampleBuilder


class Grader:
    """Grades Examples and Essays.

    Args:
        engine: Answers them.
        rubric: Reads the answers.
        builder: Turns Essays into Examples; needed by ``grade_essays`` alone.
        calibration: Applied to every Grade; ``None``: scores as the model gives them.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        rubric: Rubric,
        builder: ExampleBuilder | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.engine = engine
        self.rubric = rubric
        self.builder = builder
        self.calibration = calibration

    def grade(
        self,
        examples: Iterable[Example],
        *,
        scores_only: bool = False,
        progress: str | None = None,
        total: int | None = None,
    ) -> Iterator[Grade]:
        """Grades in input order; an answer that cannot be read is a Grade with ``parse_error``.

        Args:
            scores_only: Leave feedback empty; saves most of the time.
            progress: Label of a progress bar; ``None``: no bar. See ``Engine.answer``.
            total: Where the bar ends, for examples that cannot be counted.

        Raises:
            ValueError: If an example asks for free text, which has no Grade.
        """
        # A sequence goes to the Engine as it is, since its length is the progress bar's.
        asked, kept = (examples,) * 2 if isinstance(examples, Sequence) else tee(examples)
        answers = self.engine.answer(asked, scores_only=scores_only, progress=progress, total=total)
        for example, answer in zip(map(_gradable, kept), answers, strict=True):
            assert example.id == answer.id, f"{answer.id} came before {example.id}"
            yield read_answer(answer, self.rubric, example, calibration=self.calibration)

    def grade_essays(
        self, essays: Iterable[Essay], *, scores_only: bool = False, progress: str | None = None
    ) -> Iterator[Grade]:
        """Grades of typed essays or of their page images; see ``grade``.

        Raises:
            ValueError: If an essay's page cannot be set.
        """
        assert self.builder is not None, "a Grader of Essays needs a builder"
        built = map(self.builder.build, essays)
        examples = list(built) if isinstance(essays, Sequence) else built
        yield from self.grade(examples, scores_only=scores_only, progress=progress)


def read_answer(
    answer: Answer,
    rubric: Rubric,
    example: Example | None = None,
    *,
    calibration: Calibration | None = None,
) -> Grade:
    """The Grade that an answer means under ``rubric``.

    Args:
        example: What was asked; ``None``: nothing is known of the essay and nothing taken off.
        calibration: Applied before anything is taken off.
    """
    grade = _judgement(answer, rubric)
    if grade.parse_error:
        return grade
    if calibration is not None:
        grade = calibration.apply(grade, rubric)
    return with_deductions(grade, deduct(grade.subtotal, example, rubric) if example else ())


def _judgement(answer: Answer, rubric: Rubric) -> Grade:
    """What the model says, with sums and without deductions."""
    if answer.error:
        return Grade(id=answer.id, parse_error=f"{NO_ANSWER}{answer.error}")
    # Whether a comment was asked for does not matter for reading one.
    parsed = AnswerSchema(ranges=rubric.ranges, feedback=True).parse(answer.text)
    if parsed.error:
        return Grade(id=answer.id, parse_error=parsed.error, raw=answer.text)
    expected: dict[str, float] = {}
    spread: dict[str, float] = {}
    for name, score in parsed.scores.items():
        expected[name] = float(score)
        if shares := answer.distributions.get(name):
            low = rubric.traits[name].minimum
            expected[name] = mean = sum((low + i) * p for i, p in enumerate(shares))
            variance = sum((low + i - mean) ** 2 * p for i, p in enumerate(shares))
            spread[name] = math.sqrt(variance)
    grade = Grade(
        id=answer.id,
        scores=parsed.scores,
        expected=expected,
        spread=spread,
        feedback=parsed.feedback,
        raw=answer.text,
    )
    return with_sums(grade, rubric)


def _gradable(example: Example) -> Example:
    if example.kind != "grade":
        raise ValueError(
            f"sample {example.id} asks for free text, which has no grade; choose data of essays "
            "with a rubric"
        )
    return example
