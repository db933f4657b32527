"""An Evaluation -> what it says in plain sentences: warnings, verdict, facts of the run, as HTML.

Knows no limits and judges nothing: ``aes.metrics.verdict`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan

from aes.metrics.results import Agreement, Evaluation
from aes.metrics.verdict import Criterion, verdict
from aes.report.evaluation_html import Html, bilingual, element, join, table
from aes.report.evaluation_robustness import robustness_in_short
from aes.report.evaluation_tables import (
    TINY,
    best_baseline,
    count,
    metric_cell,
    write_number,
)
from aes.report.evaluation_words import say, say_or
from aes.rubric import Rubric

_STATES = {True: "passed", False: "failed", None: "not_proven"}

_SMALL = 60
"""Fewer independent essays than this: an interval of about +-.2 on QWK."""


def warnings(evaluation: Evaluation) -> Html:
    """What to know before any number is read; empty if all is well."""
    num, sources = evaluation.agreement.num, evaluation.agreement.num_sources
    unread = sum(bool(m.grade.parse_error) for m in evaluation.marked)
    split, left_out = evaluation.facts.get("split"), evaluation.facts.get("left out", "")
    holds = {
        "trained": split == "train",
        "all": split == "all",
        "left_out": bool(left_out),
        "sample": evaluation.is_sample,
        "small": TINY <= sources < _SMALL,
        "tiny": sources < TINY,
        "copies": sources < num,
        "unread": unread > 0,
    }
    said = [
        say(f"warning.{key}", num=num, sources=sources, unread=unread, left_out=left_out)
        for key, is_so in holds.items()
        if is_so
    ]
    return join(*(element("p", sentence, class_="warning") for sentence in said))


def verdict_panel(evaluation: Evaluation, rubric: Rubric) -> Html:
    """One sentence, what it means in points, and a row for each criterion."""
    agreement, criteria = evaluation.agreement, verdict(evaluation.agreement)
    rows = [_row(criterion, agreement) for criterion in criteria]
    keys = ("criterion", "result", "value")
    calibrated = [
        element("p", _after(method, other)) for method, other in evaluation.calibrated.items()
    ]
    beside = [best_baseline(evaluation)]
    if evaluation.robustness:
        beside.append(robustness_in_short(evaluation.robustness))
    sentences = [element("li", criterion.sentence) for criterion in criteria]
    return join(
        bilingual("h2", say("verdict.heading"), say("verdict.english"), id="verdict"),
        element("p", conclude(criteria), class_="say"),
        _in_points(evaluation, rubric),
        *(element("p", sentence) for sentence in beside if sentence),
        table(
            [say(f"verdict.{key}") for key in keys],
            rows,
            label=say("verdict.english"),
            text_columns=[1],
        ),
        element("p", say("verdict.note"), class_="note"),
        *calibrated,
        element(
            "details",
            bilingual("summary", say("verdict.in_english"), say("verdict.english_in_english")),
            element("ul", *sentences, class_="plain", lang="en"),
        ),
    )


def facts_panel(evaluation: Evaluation, rubric: Rubric) -> Html:
    """What was evaluated, as a table."""
    agreement, points = evaluation.agreement, evaluation.threshold
    rate = agreement.metrics.get("parse_rate", nan)
    span = {"minimum": rubric.minimum_total, "maximum": rubric.maximum_total}
    facts: dict[str, str] = {
        key: say_or(f"facts.values.{key}.{value}", value) for key, value in evaluation.facts.items()
    }
    # Known here better than by whom the facts were gathered.
    facts |= {
        "essays": count(agreement),
        "rubric": say("facts.rubric", title=rubric.title, **span),
        "parse_rate": write_number("parse_rate", rate),
    }
    if isfinite(points):
        facts["threshold"] = say("facts.points", points=f"{points:g}")
    return join(
        bilingual("h2", say("facts.heading"), say("facts.english"), id="facts"),
        table(
            [say("facts.label"), say("facts.value")],
            [[_fact(key), value] for key, value in facts.items()],
            label=say("facts.english"),
            text_columns=[1],
        ),
    )


def _fact(key: str) -> Html:
    label, english = (say_or(f"facts.names.{key}.{part}", "") for part in ("label", "english"))
    return join(label, element("small", english)) if label else join(key)


def conclude(criteria: Sequence[Criterion]) -> str:
    """The verdict in one sentence."""
    failed = [c for c in criteria if c.passed is False]
    undefined = [c for c in criteria if not isfinite(c.value)]
    unproven = [c for c in criteria if c.passed is None]
    if len(failed) == len(criteria):
        return say("verdict.all_fail", num=len(criteria))
    for case, concerned in (
        ("some_fail", failed),
        ("undefined", undefined),
        ("unproven", unproven),
    ):
        if concerned:
            names = "、".join(_name(c.criterion) for c in concerned)
            return say(f"verdict.{case}", num=len(criteria), concerned=len(concerned), names=names)
    return say("verdict.all_pass", num=len(criteria))


def _row(criterion: Criterion, agreement: Agreement) -> list[str]:
    key, state = criterion.criterion, _STATES[criterion.passed]
    metric = _metric(key)
    limit = write_number(metric, criterion.limit).lstrip("+")
    limit = f"|x| ≤ {limit}" if metric == "smd" else f"≥ {limit}"
    mark = element("span", say(f"verdict.{state}"), class_=f"mark {state}")
    return [
        join(
            _name(key), element("small", key), element("small", say("verdict.limit", limit=limit))
        ),
        join(mark, element("small", say(f"verdict.{state}_english"))),
        # Of the agreement, not the criterion, which has dropped the sign of a shift.
        metric_cell(agreement, metric),
    ]


def _after(method: str, calibrated: Agreement) -> str:
    conclusion = conclude(verdict(calibrated))
    return say(
        "verdict.calibrated", method=say_or(f"methods.{method}", method), conclusion=conclusion
    )


def _in_points(evaluation: Evaluation, rubric: Rubric) -> Html:
    """How far off a mark is in points; empty where that is undefined."""
    agreement, points = evaluation.agreement, evaluation.threshold
    mae, within = (
        agreement.metrics.get(f"{metric}/total", nan) for metric in ("mae", "within_threshold")
    )
    if not isfinite(mae):
        return join()
    found = {
        "mae": write_number("mae", mae),
        "within": write_number("within_threshold", within),
        "maximum": rubric.maximum_total,
        "threshold": (
            say("verdict.threshold", points=f"{points:g}")
            if isfinite(points)
            else say("verdict.unknown_threshold")
        ),
    }
    key = "verdict.plain" if isfinite(within) else "verdict.plain_mae"
    return element("p", say(key, **found))


def _metric(key: str) -> str:
    return key.split("/")[0]


def _name(key: str) -> str:
    return say_or(f"verdict.criteria.{_metric(key)}", key)
