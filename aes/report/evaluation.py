"""An Evaluation -> ``report.html``: one file that needs nothing beside it, no network included.

Puts the panels in order; each is made by a module beside this one (``evaluation_*``), and every
word comes from ``evaluation.yaml``. Measures nothing.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

from aes.files import write_atomically
from aes.metrics.groups import ORIGINAL
from aes.metrics.results import Evaluation
from aes.report.evaluation_drawing import Drawing, to_svg
from aes.report.evaluation_extras import compared_panel, double_panel, text_panel
from aes.report.evaluation_html import Html, bilingual, document, element, join
from aes.report.evaluation_plots import draw_evaluation
from aes.report.evaluation_points import shown_calibrations
from aes.report.evaluation_robustness import harm_name, robustness_panel
from aes.report.evaluation_tables import (
    GRADER_METRICS,
    GROUP_METRICS,
    agreements_table,
    comparisons,
    glossary,
    graders,
    scores_table,
    titled,
    total_table,
)
from aes.report.evaluation_verdict import facts_panel, verdict_panel, warnings
from aes.report.evaluation_words import say, say_or
from aes.report.evaluation_worst import PageImages, unread_panel, worst_panel
from aes.rubric import Rubric

_GROUPS = ("by_length", "by_band", "by_group")


def write_report(
    evaluation: Evaluation, rubric: Rubric, path: Path, *, page_images: PageImages
) -> None:
    """Write the report as HTML: text, tables, figures and pages in one file without scripts.

    Args:
        evaluation: What to show.
        rubric: What the essays were graded under.
        path: File to write, e.g. ``evaluation/test/report.html`` in the run.
        page_images: Gives the pages of an essay by its id, in reading order, empty for typed text;
            asked for the ten worst essays only.
    """
    shown = shown_calibrations(evaluation, rubric)
    unchanged = [method for method in evaluation.calibrated if method not in shown]
    evaluation = replace(evaluation, calibrated=shown)
    panels = {
        "verdict": verdict_panel(evaluation, rubric),
        "facts": facts_panel(evaluation, rubric),
        "scores": _scores_panel(evaluation, rubric),
        "baselines": _baselines_panel(evaluation, unchanged),
        "groups": _groups_panel(evaluation),
        "figures": _figures_panel(evaluation, rubric),
        "compared": compared_panel(evaluation) if evaluation.compared else join(),
        "double": double_panel(evaluation.double) if evaluation.double else join(),
        "robustness": robustness_panel(evaluation.robustness) if evaluation.robustness else join(),
        "text": text_panel(evaluation) if evaluation.text else join(),
        "unread": unread_panel(evaluation.marked),
        "worst": worst_panel(evaluation.marked, rubric, page_images),
    }
    panels = {name: panel for name, panel in panels.items() if panel}
    html = document(
        say("title"),
        say("language"),
        _opening(evaluation, rubric),
        _contents(list(panels)),
        *panels.values(),
        element("footer", say("footer")),
    )
    # What a model wrote may hold half a surrogate pair, which no encoding has.
    write_atomically(path, html.encode("utf-8", errors="replace"))


def _opening(evaluation: Evaluation, rubric: Rubric) -> Html:
    lead = say(
        "lead",
        num=evaluation.agreement.num,
        sources=evaluation.agreement.num_sources,
        rubric=rubric.title,
        maximum=rubric.maximum_total,
    )
    heading = bilingual("h1", say("title"), say("english_title"))
    return join(heading, element("p", lead), warnings(evaluation))


def _contents(names: list[str]) -> Html:
    items = [element("li", element("a", say(f"{name}.heading"), href=f"#{name}")) for name in names]
    return element("nav", element("ul", *items), aria_label=say("contents"))


def _scores_panel(evaluation: Evaluation, rubric: Rubric) -> Html:
    return join(
        bilingual("h2", say("scores.heading"), say("scores.english"), id="scores"),
        scores_table(evaluation.agreement, rubric),
        element("p", say("scores.note"), class_="note"),
        bilingual("h3", say("scores.only_total"), say("scores.english_only_total")),
        total_table(evaluation.agreement),
        glossary(),
    )


def _baselines_panel(evaluation: Evaluation, unchanged: list[str]) -> Html:
    ours = 1 + len(evaluation.calibrated)
    said = [element("li", sentence) for sentence in comparisons(evaluation)]
    compared = (
        [element("ul", *said, class_="plain"), element("p", say("baselines.method"), class_="note")]
        if said
        else [element("p", say("baselines.no_baselines"))]
    )
    heading, english = say("baselines.heading"), say("baselines.english")
    return join(
        bilingual("h2", heading, english, id="baselines"),
        element("p", say("baselines.note")),
        agreements_table(
            graders(evaluation),
            GRADER_METRICS,
            heading=say("baselines.grader"),
            label=english,
            strong_rows=ours,
        ),
        _calibration_note(evaluation, unchanged),
        *compared,
    )


def _calibration_note(evaluation: Evaluation, unchanged: list[str]) -> Html:
    """On which essays the maps were fitted, and which had no effect."""
    said = []
    if evaluation.calibrated and evaluation.calibration_source:
        said.append(say(f"fitted_on.{evaluation.calibration_source}"))
    if unchanged:
        methods = "、".join(say_or(f"methods.{method}", method) for method in unchanged)
        said.append(say("baselines.unchanged", methods=methods))
    if not evaluation.calibrated and not unchanged:
        said.append(say("baselines.no_calibration"))
    english = element("small", evaluation.calibration_note, lang="en")
    return element("p", *said, english, class_="note")


def _groups_panel(evaluation: Evaluation) -> Html:
    parts = [
        bilingual("h2", say("groups.heading"), say("groups.english"), id="groups"),
        element("p", say("groups.note"), class_="note"),
    ]
    for name in _GROUPS:
        groups = {_group(name, key): a for key, a in getattr(evaluation, name).items()}
        if groups:
            label = say(f"groups.{name}.label")
            tabled = agreements_table(
                groups, GROUP_METRICS, heading=say("groups.group"), label=label
            )
            parts += [titled("h3", f"groups.{name}"), tabled]
    if not evaluation.by_length:
        parts.append(element("p", say("groups.no_lengths"), class_="note"))
    return join(*parts)


def _group(grouping: str, key: str) -> str:
    if grouping == "by_group":
        return harm_name(key or ORIGINAL)
    # Bands are called by the rubric's own names, lengths by a range such as 402-655 chars.
    lengths = key.removesuffix(" chars")
    return key if lengths == key else say("groups.characters", range=lengths.replace("-", "–"))


def _figures_panel(evaluation: Evaluation, rubric: Rubric) -> Html:
    drawings = draw_evaluation(evaluation, rubric)
    return join(
        bilingual("h2", say("figures.heading"), say("figures.english"), id="figures"),
        element("div", *(_figure(drawing) for drawing in drawings), class_="figures"),
    )


def _figure(drawing: Drawing) -> Html:
    title = element("h3", say(f"figures.{drawing.name}.title"))
    if drawing.figure is None:
        return element("figure", title, element("p", drawing.alt, class_="note"))
    data = base64.b64encode(to_svg(drawing.figure)).decode("ascii")
    # As an image, since the ids of several inline SVGs would clash.
    image = element("img", alt=drawing.alt, src=f"data:image/svg+xml;base64,{data}")
    return element("figure", title, image, element("figcaption", drawing.caption))
