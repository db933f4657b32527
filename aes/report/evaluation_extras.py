"""Other runs, double marking and text metrics -> their panels, as HTML.

Each is there only if the evaluation has it. Computes nothing.
"""

from __future__ import annotations

from math import isfinite, nan

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
    write_difference,
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


def compared_panel(evaluation: Evaluation) -> Html:
    """Other runs on the same essays, and how far each is ahead of this one or behind."""
    runs: dict[str, Agreement] = {_this(): evaluation.agreement}
    runs |= {join(name): run.agreement for name, run in evaluation.compared.items()}
    english = say("compared.english")
    rows = [
        [join(name), *(_difference(run.difference, metric) for metric in GRADER_METRICS)]
        for name, run in evaluation.compared.items()
    ]
    return join(
        bilingual("h2", say("compared.heading"), english, id="compared"),
        element("p", say("compared.lead")),
        agreements_table(
            runs, GRADER_METRICS, heading=say("compared.run"), label=english, strong_rows=1
        ),
        bilingual("h3", say("compared.difference"), say("compared.english_difference")),
        table(
            [say("compared.run"), *(metric_heading(metric) for metric in GRADER_METRICS)],
            rows,
            label=say("compared.english_difference"),
        ),
        element("p", say("compared.note"), class_="note"),
    )


def _this() -> Html:
    return join(say("baselines.model"), element("small", say("baselines.english_model")))


def _difference(difference: Agreement, metric: str) -> Html:
    """A signed number, and its interval below in small type."""
    name = metric_name(metric)
    value, interval = difference.metrics.get(name, nan), difference.intervals.get(name)
    if not isfinite(value):
        return join(UNDEFINED)
    shown = write_difference(metric, value)
    if interval is None or not (isfinite(interval.low) and isfinite(interval.high)):
        return join(shown)
    ends = ", ".join(write_difference(metric, end) for end in (interval.low, interval.high))
    return join(shown, element("small", f"[{ends}]"))


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
