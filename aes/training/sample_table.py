"""A few validation examples answered in full -> rows of page, gold answer and predicted answer.

Grades have totals beside their texts; texts are all there is of other answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from aes.grading import Grader, read_answer
from aes.inference.engine import Engine
from aes.records import Example
from aes.report.samples import SampleRow, wandb_table


def graded_rows(
    grader: Grader, examples: Sequence[Example], *, num_examples: int, scores_only: bool
) -> list[SampleRow]:
    """Answer examples spread evenly over ``examples``.

    Args:
        examples: With gold answers.
        num_examples: How many of them, at most.
        scores_only: Leave comments out.
    """
    engine, rubric = grader.engine, grader.rubric
    chosen, rows = _choose(examples, num_examples), []
    for example, answer in zip(chosen, engine.answer(chosen, scores_only=scores_only), strict=True):
        grade = read_answer(answer, rubric)
        rows.append(
            SampleRow(
                id=example.id,
                page=_first_page(engine.renderer, example),
                gold_text=gold_text(example),
                pred_text=answer.text,
                gold_total=rubric.total(example.scores),
                pred_total=grade.subtotal,
            )
        )
    return rows


def text_rows(engine: Engine, examples: Sequence[Example], *, num_examples: int) -> list[SampleRow]:
    """The same of answers that are texts or labels; see ``graded_rows``."""
    chosen = _choose(examples, num_examples)
    return [
        SampleRow(
            id=example.id,
            page=_first_page(engine.renderer, example),
            gold_text=gold_text(example),
            pred_text=answer.text,
            gold_total=None,
            pred_total=None,
        )
        for example, answer in zip(chosen, engine.answer(chosen), strict=True)
    ]


def gold_text(example: Example) -> str:
    """The answer that an Example should have."""
    return "".join(text for text, _ in example.answer)


def _choose(examples: Sequence[Example], num_examples: int) -> list[Example]:
    stride = max(1, len(examples) // max(1, num_examples))
    return list(examples[::stride][:num_examples])


def log_samples(logger: Logger | None, rows: Sequence[SampleRow]) -> None:
    """Show the rows in W&B, where that is the logger."""
    if isinstance(logger, WandbLogger) and rows:
        logger.experiment.log({"val/samples": wandb_table(rows)})


def _first_page(renderer: Any, example: Example) -> Any:
    return renderer.image(example.pages[0]) if example.pages else None
