"""A few validation examples answered in full -> rows of page, gold answer and predicted answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from aes.grading import Grader, read_answer
from aes.records import Example
from aes.report.samples import SampleRow, wandb_table


def sample_rows(
    grader: Grader, examples: Sequence[Example], *, num_examples: int, scores_only: bool
) -> list[SampleRow]:
    """Answer examples spread evenly over ``examples``.

    Args:
        examples: With gold answers.
        num_examples: How many of them, at most.
        scores_only: Leave comments out.
    """
    engine, rubric = grader.engine, grader.rubric
    stride = max(1, len(examples) // max(1, num_examples))
    chosen = examples[::stride][:num_examples]
    rows = []
    for example, answer in zip(chosen, engine.answer(chosen, scores_only=scores_only), strict=True):
        grade = read_answer(answer, rubric)
        rows.append(
            SampleRow(
                id=example.id,
                page=_first_page(engine.renderer, example),
                gold_text="".join(text for text, _ in example.answer),
                pred_text=answer.text,
                gold_total=rubric.total(example.scores),
                pred_total=grade.subtotal,
            )
        )
    return rows


def log_samples(logger: Logger | None, rows: Sequence[SampleRow]) -> None:
    """Show the rows in W&B, where that is the logger."""
    if isinstance(logger, WandbLogger) and rows:
        logger.experiment.log({"val/samples": wandb_table(rows)})


def _first_page(renderer: Any, example: Example) -> Any:
    return renderer.image(example.pages[0]) if example.pages else None
