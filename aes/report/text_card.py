"""An AnswersEvaluation -> the few lines that close evaluate.py on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aes.metrics.answers import AnswersEvaluation
from aes.metrics.classification import OF_CLASSES, Classification
from aes.report.text_tables import (
    SPEED,
    metrics_of,
    value_of,
    write_ends,
    write_value,
)

_CAUTIONS = {
    "train": "split=train: these samples were trained on; the numbers say nothing about new ones",
    "all": "split=all: samples that were trained on are among them, unless the data is another",
}
_MODELS = {"trained": "fine-tuned", "base": "base model"}
_HEADINGS = {
    "bleu-4": "BLEU-4",
    "rouge-1": "ROUGE-1",
    "rouge-2": "ROUGE-2",
    "rouge-l": "ROUGE-L",
    "accuracy": "accuracy",
    "precision": "macro precision",
    "recall": "macro recall",
    "f1": "macro F1",
    "unparsed": "unparsed",
    "answering_s": "time s",
    "samples_per_s": "samples/s",
}
_MOST_CLASSES = 20


def print_answers(console: Console, evaluation: AnswersEvaluation, report: Path) -> None:
    """Print the card; the report's path stays a whole line, so that it can be copied."""
    console.print()
    console.rule("evaluation finished", align="left", style="bold green")
    console.print(Text(f"report   {report}"), soft_wrap=True)
    if caution := _CAUTIONS.get(evaluation.facts.get("split", "")):
        console.print(Text(caution, style="yellow"))
    if left_out := evaluation.facts.get("left out"):
        console.print(Text(f"left out of every number: {left_out}", style="yellow"))
    answered = evaluation.trained.answered
    labels = f", one of {len(evaluation.choices)} labels each" if evaluation.choices else ""
    console.print(Text(f"{len(answered)} samples{labels}"))
    console.print()
    console.print(_models(evaluation))
    if evaluation.trained.labels is not None:
        console.print()
        console.print(_classes(evaluation.trained.labels))


def _models(evaluation: AnswersEvaluation) -> Table:
    """A row a metric, a column a model: narrow terminals have more rows than columns.

    Of many models only the first has room for its intervals; the report has them all.
    """
    names = list(evaluation.models)
    with_interval = names if len(names) <= 2 else names[:1]
    headings: list[str] = []
    for name in names:
        headings.append(_MODELS.get(name, name))
        headings += ["95 % interval"] if name in with_interval else []
    table = _table("metric", *headings)
    for metric in (*metrics_of(evaluation), *SPEED):
        cells: list[str] = []
        for name, result in evaluation.models.items():
            value, interval = value_of(result, metric)
            cells.append(write_value(metric, value))
            cells += [write_ends(metric, interval)] if name in with_interval else []
        table.add_row(_HEADINGS[metric], *cells)
    return table


def _classes(found: Classification) -> Table:
    """A row a label of what was trained."""
    table = _table("label", "samples", "precision", "recall", "F1")
    shown = list(zip(found.labels, found.support, strict=True))
    for label, num in shown[:_MOST_CLASSES]:
        values = (write_value(m, found.metrics[f"{m}/{label}"]) for m in OF_CLASSES)
        table.add_row(label, str(num), *values)
    if len(shown) > _MOST_CLASSES:
        table.add_row(f"... and {len(shown) - _MOST_CLASSES} more in the report")
    return table


def _table(first: str, *rest: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold", min_width=8)
    for heading in rest:
        table.add_column(heading, justify="right", overflow="fold")
    return table
