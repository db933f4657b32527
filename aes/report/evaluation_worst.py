"""Single essays -> pages, gold and predicted answer side by side, as HTML.

First the answers that could not be read, then the essays whose totals are furthest from gold.
Pages are made smaller until they fit a budget, so that the report can be sent by mail.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from aes.records import Marked
from aes.report.evaluation_html import Html, bilingual, element, join, table
from aes.report.evaluation_points import feedback_of, gold_total, pred_total, worst
from aes.report.evaluation_tables import UNDEFINED, stacked, titled
from aes.report.evaluation_words import say
from aes.rubric import Rubric

if TYPE_CHECKING:
    from PIL.Image import Image

PageImages = Callable[[str], Sequence["Image"]]
"""An essay's id -> its pages; empty for typed text."""

_MAX_WORST, _MAX_UNREAD, _MAX_PAGES = 10, 20, 4
_MAX_RAW_CHARS = 2000

_ESSAY_BYTES = 150_000
"""Most bytes of all pages of one essay."""

_ENCODINGS = ((1100, 70), (1100, 45), (900, 45), (700, 40), (500, 35))
"""Longest side in px and JPEG quality, tried from the best on."""


def unread_panel(marked: Sequence[Marked]) -> Html:
    """The answers that could not be read, as they came; empty without any."""
    unread = [m for m in marked if m.grade.parse_error]
    if not unread:
        return join()
    essays = [
        element(
            "article",
            element("h3", m.id),
            element("p", say("unread.reason", reason=m.grade.parse_error), class_="note"),
            element("pre", _shorten(m.grade.raw)),
            class_="essay",
        )
        for m in unread[:_MAX_UNREAD]
    ]
    rest = unread[_MAX_UNREAD:]
    if rest:
        ids = "、".join(m.id for m in rest)
        essays.append(element("p", say("unread.more", num=len(rest), ids=_shorten(ids))))
    return join(
        bilingual("h2", say("unread.heading"), say("unread.english"), id="unread"),
        element("p", say("unread.lead", num=len(unread))),
        *essays,
    )


def worst_panel(marked: Sequence[Marked], rubric: Rubric, page_images: PageImages) -> Html:
    """The essays that were graded worst; empty if none could be read."""
    chosen = worst(marked, rubric, _MAX_WORST)
    if not chosen:
        return join()
    return join(
        bilingual("h2", say("worst.heading"), say("worst.english"), id="worst"),
        element("p", say("worst.lead", num=len(chosen))),
        *(_essay(m, rubric, page_images(m.id)) for m in chosen),
    )


def encode_page(image: Image, max_bytes: int) -> str:
    """A page as a data URI of about at most so many bytes.

    Args:
        image: Any size and mode; never enlarged.
        max_bytes: Before base64. A page that does not fit at the least quality is larger.
    """
    data, smaller = b"", image.convert("RGB")
    for side_px, quality in _ENCODINGS:
        smaller.thumbnail((side_px, side_px))
        buffer = io.BytesIO()
        smaller.save(buffer, format="JPEG", quality=quality, optimize=True)
        data = buffer.getvalue()
        if len(data) <= max_bytes:
            break
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _essay(marked: Marked, rubric: Rubric, pages: Sequence[Image]) -> Html:
    gold, pred = gold_total(marked, rubric), pred_total(marked, rubric)
    found = {"gold": f"{gold:g}", "pred": f"{pred:.1f}", "difference": f"{pred - gold:+.1f}"}
    heading = say("worst.title", id=marked.id, **found)
    right = element(
        "div",
        element("p", _facts(marked), class_="note"),
        _traits(marked, rubric),
        _deductions(marked),
        _feedback(marked),
        _raw(marked),
    )
    return element(
        "article",
        element("h3", heading),
        element("div", _pages(marked.id, pages), right),
        class_="essay",
    )


def _facts(marked: Marked) -> str:
    facts = []
    if isfinite(marked.grade.uncertainty):
        facts.append(f"{say('worst.uncertainty')} {marked.grade.uncertainty:.2f}")
    if marked.num_chars:
        facts.append(f"{say('worst.length')} {marked.num_chars}")
    if marked.group:
        facts.append(f"{say('worst.group')} {marked.group}")
    if marked.fold is not None:
        facts.append(f"{say('worst.fold')} {marked.fold}")
    return " · ".join(facts)


def _traits(marked: Marked, rubric: Rubric) -> Html:
    grade = marked.grade
    rows = [
        [
            trait.label,
            str(marked.gold.get(name, UNDEFINED)),
            str(grade.scores.get(name, UNDEFINED)),
            _difference(grade.expected.get(name), marked.gold.get(name)),
            _expected(grade.expected.get(name), grade.spread.get(name)),
        ]
        for name, trait in rubric.traits.items()
    ]
    gold = gold_total(marked, rubric)
    total = [
        say("scores.total"),
        f"{gold:g}",
        f"{grade.subtotal:g}",
        _difference(grade.expected_subtotal, gold),
        _expected(grade.expected_subtotal, grade.uncertainty),
    ]
    keys = ("gold", "pred", "difference", "expected")
    headings = [say("scores.part"), *(stacked(f"worst.{key}") for key in keys)]
    return table(headings, [total, *rows], label=marked.id, strong_rows=1)


def _deductions(marked: Marked) -> Html:
    if not marked.grade.deductions:
        return join()
    items = [
        element("li", say("worst.deduction", reason=d.reason, points=f"{d.points:g}"))
        for d in marked.grade.deductions
    ]
    final = element("li", say("worst.final", total=f"{marked.grade.total:g}"))
    heading = titled("h4", "worst.deductions")
    return join(heading, element("ul", *items, final, class_="plain"))


def _feedback(marked: Marked) -> Html:
    gold, pred = feedback_of(marked.gold_text) or "", marked.grade.feedback
    if not gold and not pred:
        return join()
    sides = [
        element(
            "div",
            titled("h4", f"worst.{key}"),
            element("pre", _shorten(text) or say("worst.no_feedback")),
        )
        for key, text in (("feedback_gold", gold), ("feedback_pred", pred))
    ]
    return element("div", *sides, class_="answers")


def _raw(marked: Marked) -> Html:
    sides = [
        element("div", titled("h4", f"worst.raw_{key}"), element("pre", _shorten(text)))
        for key, text in (("gold", marked.gold_text), ("pred", marked.grade.raw))
    ]
    inner = element("div", *sides, class_="answers")
    return element(
        "details", bilingual("summary", say("worst.raw"), say("worst.english_raw")), inner
    )


def _pages(id_: str, pages: Sequence[Image]) -> Html:
    if not pages:
        return element("p", say("worst.no_pages"), class_="note")
    shown = pages[:_MAX_PAGES]
    images = [
        element(
            "img",
            alt=say("worst.page", id=id_, page=number),
            src=encode_page(page, _ESSAY_BYTES // len(shown)),
        )
        for number, page in enumerate(shown, start=1)
    ]
    if num_left := len(pages) - len(shown):
        images.append(element("p", say("worst.more_pages", num=num_left), class_="note"))
    return element("div", *images, class_="pages")


def _expected(mean: float | None, spread: float | None) -> str:
    if mean is None or not isfinite(mean):
        return UNDEFINED
    return f"{mean:.2f} ± {spread:.2f}" if spread and isfinite(spread) else f"{mean:.2f}"


def _difference(pred: float | None, gold: float | None) -> str:
    return UNDEFINED if pred is None or gold is None else f"{pred - gold:+.2f}"


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_RAW_CHARS else text[:_MAX_RAW_CHARS] + " …"
