"""Results of answers in text -> the numbers of their tables, for the terminal and for HTML.

Knows how each metric is written and computes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan

from aes.metrics.answers import AnswersEvaluation, AnswersResult
from aes.metrics.classification import OF_CLASSES
from aes.metrics.results import Interval
from aes.metrics.text import NAMES
from aes.report.evaluation_html import Html, bilingual, element, join, table
from aes.report.evaluation_tables import UNDEFINED, stacked
from aes.report.evaluation_words import say, say_or

LABEL_METRICS = ("accuracy", "precision", "recall", "f1", "unparsed")
"""Of labels, in the order in which they are shown."""

SPEED = ("answering_s", "samples_per_s")


def metrics_of(evaluation: AnswersEvaluation) -> Sequence[str]:
    """What the models are compared by."""
    return LABEL_METRICS if evaluation.choices else NAMES


def value_of(result: AnswersResult, metric: str) -> tuple[float, Interval | None]:
    """A metric and its interval, if it has one."""
    if metric in NAMES:
        return result.text[metric], result.text_intervals.get(metric)
    if metric in SPEED:
        return float(getattr(result, metric)), None
    assert result.labels is not None
    return result.labels.metrics.get(metric, nan), result.labels.intervals.get(metric)


def write_value(metric: str, value: float) -> str:
    """A metric as it is read: shares in percent, as BLEU and ROUGE are from the start."""
    if not isfinite(value):
        return UNDEFINED
    if metric in NAMES or metric in SPEED:
        return f"{value:.2f}"
    return f"{value:.1%}" if metric in ("accuracy", "unparsed") else f"{value:.3f}"


def write_ends(metric: str, interval: Interval | None) -> str:
    """Both ends in brackets; empty where there is no interval."""
    if interval is None or not (isfinite(interval.low) and isfinite(interval.high)):
        return ""
    return f"[{write_value(metric, interval.low)}, {write_value(metric, interval.high)}]"


def model_name(name: str) -> str:
    """A model as it is called in words; other runs by their own names."""
    return say_or(f"answers.models.{name}.label", name)


def model_heading(name: str) -> Html:
    """The same with its English name below it."""
    english = say_or(f"answers.models.{name}.english", say("answers.models.compared"))
    return join(model_name(name), element("small", english))


def models_table(evaluation: AnswersEvaluation) -> Html:
    """Rows: the models. Columns: metrics with their intervals, and speed."""
    columns = (*metrics_of(evaluation), *SPEED)
    rows = [
        [model_heading(name), *(_cell(result, metric) for metric in columns)]
        for name, result in evaluation.models.items()
    ]
    headings = [
        say("answers.numbers.model"),
        *(stacked(f"answers.numbers.names.{metric}") for metric in columns),
    ]
    return table(headings, rows, label=say("answers.numbers.english"), strong_rows=1)


def classes_table(evaluation: AnswersEvaluation) -> Html:
    """Rows: labels. Columns: support, and precision, recall and F1 of each model."""
    results = {name: r.labels for name, r in evaluation.models.items() if r.labels is not None}
    support = results["trained"].support
    rows = []
    for label, num in zip(evaluation.choices, support, strict=True):
        row = [label, str(num)]
        for found in results.values():
            for metric in OF_CLASSES:
                name = f"{metric}/{label}"
                row.append(_number(metric, found.metrics[name], found.intervals.get(name)))
        rows.append(row)
    headings: list[str] = [say("answers.classes.label"), stacked("answers.classes.support")]
    for name in results:
        model = model_name(name)
        headings += [
            join(
                say(f"answers.classes.{metric}.label"),
                element("small", say(f"answers.classes.{metric}.english")),
                element("small", model),
            )
            for metric in OF_CLASSES
        ]
    return join(
        bilingual(
            "h2", say("answers.classes.heading"), say("answers.classes.english"), id="classes"
        ),
        table(headings, rows, label=say("answers.classes.english")),
        element("p", say("answers.classes.note"), class_="note"),
    )


def _cell(result: AnswersResult, metric: str) -> Html:
    return _number(metric, *value_of(result, metric))


def _number(metric: str, value: float, interval: Interval | None) -> Html:
    number, ends = write_value(metric, value), write_ends(metric, interval)
    return join(number, element("small", ends)) if ends else join(number)
