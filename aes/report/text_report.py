"""An AnswersEvaluation -> ``report.html``: one file that needs nothing beside it.

Shares its page and style with the report on graded essays (``aes.report.evaluation_html``); every
word comes from ``text_evaluation.yaml``. Measures nothing.
"""

from __future__ import annotations

import base64
from pathlib import Path

from aes.files import write_atomically
from aes.metrics.answers import AnswersEvaluation
from aes.report.evaluation_drawing import Drawing, to_svg
from aes.report.evaluation_html import Html, bilingual, document, element, join, table
from aes.report.evaluation_tables import stacked
from aes.report.evaluation_words import say, words
from aes.report.text_examples import ShowSample, examples_panel
from aes.report.text_plots import draw_confusion
from aes.report.text_tables import classes_table, model_name, models_table

_FEW = 60
"""Fewer independent samples than this: intervals are wide, and small differences chance."""


def write_text_report(
    evaluation: AnswersEvaluation, path: Path, *, show_sample: ShowSample
) -> None:
    """Write the report as HTML: tables, figures and examples in one file without scripts.

    Args:
        evaluation: What to show.
        path: File to write.
        show_sample: Gives what a sample asks by its id; asked for the examples shown only.
    """
    panels = {"numbers": _numbers_panel(evaluation), "facts": _facts_panel(evaluation)}
    if evaluation.choices:
        panels |= {"classes": classes_table(evaluation), "confusion": _confusion_panel(evaluation)}
    if evaluation.trained.answered:
        panels["examples"] = examples_panel(evaluation, show_sample)
    html = document(
        say("answers.title"),
        say("language"),
        _opening(evaluation),
        _contents(list(panels)),
        *panels.values(),
        element("footer", say("answers.footer")),
    )
    # What a model wrote may hold half a surrogate pair, which no encoding has.
    write_atomically(path, html.encode("utf-8", errors="replace"))


def _opening(evaluation: AnswersEvaluation) -> Html:
    answered = evaluation.trained.answered
    sources = len({one.source for one in answered})
    lead = say("answers.lead", num=len(answered), sources=sources)
    if evaluation.choices:
        lead += say("answers.choices", num=len(evaluation.choices))
    warned = []
    split = evaluation.facts.get("split", "")
    if split in ("train", "all"):
        warned.append(say(f"answers.warning.{split}"))
    if left_out := evaluation.facts.get("left out"):
        warned.append(say("answers.warning.left_out", left_out=left_out))
    if sources < _FEW:
        warned.append(say("answers.warning.small", sources=sources))
    if evaluation.choices and (unparsed := list(evaluation.trained.preds).count(None)):
        warned.append(say("answers.warning.unparsed", unparsed=unparsed))
    return join(
        bilingual("h1", say("answers.title"), say("answers.english_title")),
        element("p", lead),
        *(element("p", warning, class_="warning") for warning in warned),
    )


def _contents(names: list[str]) -> Html:
    items = [
        element("li", element("a", say(f"answers.{name}.heading"), href=f"#{name}"))
        for name in names
    ]
    return element("nav", element("ul", *items), aria_label=say("answers.contents"))


def _numbers_panel(evaluation: AnswersEvaluation) -> Html:
    notes = [say("answers.numbers.note")]
    if not evaluation.choices:
        notes.append(say("answers.numbers.text_note"))
    if "base" not in evaluation.models:
        notes.append(say("answers.numbers.no_base"))
    return join(
        _heading("numbers"),
        models_table(evaluation),
        *(element("p", note, class_="note") for note in notes),
    )


def _facts_panel(evaluation: AnswersEvaluation) -> Html:
    known = words()
    rows = [
        [stacked(key) if f"{key}.label" in known else join(name), value]
        for name, value in evaluation.facts.items()
        for key in [f"answers.facts.names.{name}"]
    ]
    headings = [say("answers.facts.label"), say("answers.facts.value")]
    return join(
        _heading("facts"),
        table(headings, rows, label=say("answers.facts.english"), text_columns=[1]),
    )


def _confusion_panel(evaluation: AnswersEvaluation) -> Html:
    figures = [
        _figure(draw_confusion(result.labels, model=model), model)
        for name, result in evaluation.models.items()
        if result.labels is not None
        for model in [model_name(name)]
    ]
    return join(_heading("confusion"), element("div", *figures, class_="figures"))


def _figure(drawing: Drawing, title: str) -> Html:
    heading = element("h3", say("answers.confusion.title", model=title))
    if drawing.figure is None:
        return element("figure", heading, element("p", drawing.alt, class_="note"))
    data = base64.b64encode(to_svg(drawing.figure)).decode("ascii")
    # As an image, since the ids of several inline SVGs would clash.
    image = element("img", alt=drawing.alt, src=f"data:image/svg+xml;base64,{data}")
    return element("figure", heading, image, element("figcaption", drawing.caption))


def _heading(name: str) -> Html:
    return bilingual("h2", say(f"answers.{name}.heading"), say(f"answers.{name}.english"), id=name)
