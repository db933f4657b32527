"""Agreements -> tables of numbers with their intervals, as HTML.

Knows how each metric is written (points, shares, signed) and computes none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, nan

from aes.metrics.results import Agreement, Evaluation, Interval
from aes.report.evaluation_html import Html, bilingual, element, join, table
from aes.report.evaluation_words import say, say_or
from aes.rubric import Rubric

PART_METRICS = (
    "qwk",
    "continuous_qwk",
    "pearson",
    "spearman",
    "mae",
    "rmse",
    "mean_shift",
    "exact",
    "adjacent",
    "smd",
    "sd_ratio",
)
"""Metrics of the total and of each trait."""

TOTAL_METRICS = ("within_threshold", "band_qwk", "band_exact", "band_adjacent", "parse_rate")
"""Metrics that only the total has."""

GRADER_METRICS = (
    "qwk",
    "continuous_qwk",
    "pearson",
    "mae",
    "rmse",
    "within_threshold",
    "mean_shift",
    "sd_ratio",
)
"""Of the total, where graders stand side by side."""

GROUP_METRICS = ("mae", "rmse", "mean_shift", "qwk", "pearson", "exact", "adjacent")
"""Of the total, where groups of essays stand side by side."""

_PERCENT = {"exact", "adjacent", "within_threshold", "band_exact", "band_adjacent", "parse_rate"}
_POINTS = {"mae", "rmse"}
_SIGNED = {"mean_shift": "+.2f", "smd": "+.3f"}

UNDEFINED = "—"

TINY = 20
"""Fewer independent essays than this: bootstrap intervals are too narrow to prove anything."""


def metric_name(metric: str, part: str = "total") -> str:
    """The key of a metric in ``Agreement.metrics``."""
    return metric if metric == "parse_rate" else f"{metric}/{part}"


def write_number(metric: str, value: float) -> str:
    """A metric's value as it is read: shares in percent, points to two places."""
    if not isfinite(value):
        return UNDEFINED
    if metric in _PERCENT:
        return f"{value:.1%}"
    if metric in _POINTS:
        return f"{value:.2f}"
    return f"{value:{_SIGNED.get(metric, '.3f')}}"


def write_difference(metric: str, value: float) -> str:
    """The difference of two values of a metric, with its sign; of shares in points of percent."""
    return f"{value:+.1%}" if metric in _PERCENT else f"{value:{_SIGNED.get(metric, '+.3f')}}"


def write_interval(metric: str, interval: Interval | None) -> str:
    """Both ends in brackets; empty where there is no interval."""
    if interval is None or not (isfinite(interval.low) and isfinite(interval.high)):
        return ""
    low, high = (write_number(metric, end) for end in (interval.low, interval.high))
    return f"[{low}, {high}]"


def number_cell(metric: str, value: float, interval: Interval | None) -> Html:
    """The value, and the interval below it in small type."""
    small = write_interval(metric, interval)
    number = write_number(metric, value)
    return join(number, element("small", small)) if small else join(number)


def metric_cell(agreement: Agreement, metric: str, part: str = "total") -> Html:
    """One metric of one part."""
    name = metric_name(metric, part)
    return number_cell(metric, agreement.metrics.get(name, nan), agreement.intervals.get(name))


def stacked(key: str, **values: object) -> Html:
    """The label of a key, and below it in small type the word that engineers know."""
    label, english = (say(f"{key}.{part}", **values) for part in ("label", "english"))
    return join(label, element("small", english))


def titled(tag: str, key: str) -> Html:
    """A heading of a key's label and its English."""
    return bilingual(tag, say(f"{key}.label"), say(f"{key}.english"))


def metric_heading(metric: str) -> Html:
    """Its name, and the one that engineers know."""
    return stacked(f"metrics.{metric}")


def count(agreement: Agreement) -> Html:
    """Essays, and independent sources where they are fewer."""
    if agreement.num_sources >= agreement.num:
        return join(str(agreement.num))
    sources = element("small", say("groups.sources", sources=agreement.num_sources))
    return join(str(agreement.num), sources)


def scores_table(agreement: Agreement, rubric: Rubric) -> Html:
    """Rows: the total and each trait. Columns: metrics."""
    labels = {"total": say("scores.total")}
    # A trait may be called total too; the total is the total.
    labels = {name: trait.label for name, trait in rubric.traits.items()} | labels
    parts = ["total", *(name for name in rubric.traits if name != "total")]
    rows = [
        [
            join(labels[part], element("small", part)),
            *(metric_cell(agreement, metric, part) for metric in PART_METRICS),
        ]
        for part in parts
    ]
    headings = [say("scores.part"), *(metric_heading(metric) for metric in PART_METRICS)]
    return table(headings, rows, label=say("scores.english"), strong_rows=1)


def total_table(agreement: Agreement) -> Html:
    """The metrics that only the total has."""
    present = [m for m in TOTAL_METRICS if metric_name(m) in agreement.metrics]
    row = [say("scores.total"), *(metric_cell(agreement, metric) for metric in present)]
    headings = [say("scores.part"), *(metric_heading(metric) for metric in present)]
    return table(headings, [row], label=say("scores.english_only_total"))


def agreements_table(
    rows: Mapping[str, Agreement],
    metrics: Sequence[str],
    *,
    heading: str,
    label: str,
    strong_rows: int = 0,
) -> Html:
    """Rows: one agreement each, with its n. Columns: metrics of the total."""
    cells = [
        [name, count(agreement), *(metric_cell(agreement, metric) for metric in metrics)]
        for name, agreement in rows.items()
    ]
    headings = [heading, stacked("groups.num"), *(metric_heading(metric) for metric in metrics)]
    return table(headings, cells, label=label, strong_rows=strong_rows)


def graders(evaluation: Evaluation) -> dict[str, Agreement]:
    """The model as graded and calibrated, then the baselines, by the name to be shown.

    Args:
        evaluation: With the calibrations that are to be shown.
    """
    rows = {_named(say("baselines.model"), say("baselines.english_model")): evaluation.agreement}
    for method, agreement in evaluation.calibrated.items():
        english = say("baselines.english_calibrated", method=method)
        label = say("baselines.calibrated", method=say_or(f"methods.{method}", method))
        rows[_named(label, english)] = agreement
    for key, agreement in evaluation.baselines.items():
        english = say_or(f"baselines.names.{key}.english", key)
        rows[_named(_baseline(key), english)] = agreement
    return dict(rows)


def best_baseline(evaluation: Evaluation) -> str:
    """How the model compares with the best of those that do not read; empty without any."""
    qwks = {key: _qwk(a)[0] for key, a in evaluation.baselines.items() if key != "no_adapter"}
    known = [key for key, value in qwks.items() if isfinite(value)]
    if not known:
        return ""
    best = max(known, key=lambda key: qwks[key])
    return say("verdict.best_baseline", comparison=_comparison(evaluation, best))


def comparisons(evaluation: Evaluation) -> list[str]:
    """A sentence for each baseline: whether the model, as graded, beats it in QWK.

    Intervals that do not overlap are taken as a difference, which errs on the side of doubt.
    """
    return [_comparison(evaluation, key) for key in evaluation.baselines]


def _comparison(evaluation: Evaluation, key: str) -> str:
    ours, mine = _qwk(evaluation.agreement)
    value, interval = _qwk(evaluation.baselines[key])
    ends = (ours, value, mine.low, mine.high, interval.low, interval.high)
    if not all(isfinite(end) for end in ends):
        case = "undefined"
    elif mine.low > interval.high:
        case = "beats" if evaluation.agreement.num_sources >= TINY else "beats_few"
    else:
        case = "loses" if mine.high < interval.low else "overlaps"
    difference = f"{ours - value:+.3f}" if case == "overlaps" else f"{abs(ours - value):.3f}"
    return say(f"baselines.{case}", name=_baseline(key), difference=difference)


def glossary() -> Html:
    """What each metric means, for a teacher."""
    entries = [
        part
        for metric in (*PART_METRICS, *TOTAL_METRICS)
        for part in (
            bilingual("dt", say(f"metrics.{metric}.label"), say(f"metrics.{metric}.english")),
            element("dd", say(f"metrics.{metric}.meaning")),
        )
    ]
    summary = element("summary", say("scores.glossary"))
    return element("details", summary, element("dl", *entries), class_="printed")


def _named(chinese: str, english: str) -> str:
    return join(chinese, element("small", english))


def _baseline(key: str) -> str:
    return say_or(f"baselines.names.{key}.label", key)


def _qwk(agreement: Agreement) -> tuple[float, Interval]:
    value = agreement.metrics.get("qwk/total", nan)
    return value, agreement.intervals.get("qwk/total", Interval(nan, nan))
