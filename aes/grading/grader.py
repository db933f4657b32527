"""Engine and Rubric: Examples to Grades, with totals computed here and never by the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from aes.inference.engine import Engine
from aes.prompt import AnswerSchema
from aes.records import Answer, Example, Grade
from aes.rubric import Rubric


class Grader:
    """Grades Examples.

    Args:
        engine: Answers them.
        rubric: Reads the answers.
    """

    def __init__(self, *, engine: Engine, rubric: Rubric) -> None:
        self.engine = engine
        self.rubric = rubric

    def grade(self, examples: Iterable[Example], *, scores_only: bool = False) -> Iterator[Grade]:
        """Grades in input order; an answer that cannot be read is a Grade with ``parse_error``."""
        for answer in self.engine.answer(examples, scores_only=scores_only):
            yield read_answer(answer, self.rubric)


def read_answer(answer: Answer, rubric: Rubric) -> Grade:
    """The Grade that an answer means under ``rubric``."""
    # Whether a comment was asked for does not matter for reading one.
    parsed = AnswerSchema(ranges=rubric.ranges, feedback=True).parse(answer.text)
    if parsed.error:
        return Grade(id=answer.id, parse_error=parsed.error, raw=answer.text)
    expected, spread = {}, {}
    for name, score in parsed.scores.items():
        shares = answer.distributions.get(name, ())
        low = rubric.traits[name].minimum
        mean = sum((low + i) * p for i, p in enumerate(shares)) if shares else float(score)
        variance = sum((low + i - mean) ** 2 * p for i, p in enumerate(shares))
        expected[name], spread[name] = mean, math.sqrt(variance)
    return Grade(
        id=answer.id,
        scores=parsed.scores,
        expected=expected,
        spread=spread,
        total=rubric.total(parsed.scores),
        expected_total=rubric.total(expected),
        feedback=parsed.feedback,
        raw=answer.text,
    )
