"""Double marking and text metrics -> their panels, as HTML.

Each is there only if the evaluation has it. Computes nothing.
"""

from __future__ import annotations

from math import isfinite

from aes.metrics.results import Agreement, DoubleMarking, Evaluation
from aes.report.evaluation_html import Html, bilingual, element, join, table
from aes.report.evaluation_tables import (
    GRADER_METRICS,
    PART_METRICS,
    UNDEFINED,
    agreements_table,
    metric_heading,
    metric_name,
    stacked,
    write_number,
)
from aes.report.evaluation_words import say, say_or


def double_panel(double: DoubleMarking) -> Html:
    """How far two markers agree, and what the mean of both gains."""
    first, second = double.names
    lead = say(
        "double.lead",
        first=first,
        second=second,
        num=double.num,
        threshold=f"{double.threshold:g}",
        rate=write_number("within_threshold", double.arbitration_rate),
    )
    present = [m for m in PART_METRICS if metric_name(m) in double.agreement]
    between = [write_number(m, double.agreement[metric_name(m)]) for m in present]
    markers: dict[str, Agreement] = {
        stacked("double.first", name=first): double.first,
        stacked("double.second", name=second): double.second,
        stacked("double.mean"): double.mean,
        stacked("double.mean_accepted"): double.mean_accepted,
    }
    return join(
        bilingual("h2", say("double.heading"), say("double.english"), id="double"),
        element("p", lead),
        agreements_table(
            markers,
            GRADER_METRICS,
            heading=say("double.grader"),
            label=say("double.english"),
        ),
        element("p", say("double.note"), class_="note"),
        bilingual("h3", say("double.between"), say("double.english_between")),
        table(
            [say("scores.part"), *(metric_heading(metric) for metric in present)],
            [[say("scores.total"), *between]],
            label=say("double.english_between"),
        ),
    )


def text_panel(evaluation: Evaluation) -> Html:
    """Text metrics, with the warning that they do not see the score."""
    rows = [
        [_text_metric(name), f"{value:.2f}" if isfinite(value) else UNDEFINED]
        for name, value in evaluation.text.items()
    ]
    return join(
        bilingual("h2", say("text.heading"), say("text.english"), id="text"),
        element("p", say("text.note"), class_="warning"),
        table([say("text.name"), say("text.value")], rows, label=say("text.english")),
    )


def _text_metric(key: str) -> Html:
    return join(say_or(f"text.names.{key}", key), element("small", key))
