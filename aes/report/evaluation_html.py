"""Texts and parts -> HTML that is escaped by construction, and the report's style.

Whatever is not ``Html`` already is escaped, so that nothing an essay or a model wrote can become
markup. Knows no evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy of the document: no script, and nothing is fetched from anywhere."""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.6 system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans SC",
       "WenQuanYi Zen Hei", sans-serif; color: #1d2733; background: #fff;
       max-width: 1260px; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; line-height: 1.3; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .6rem; padding-top: .8rem; border-top: 2px solid #d5dbe3; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; }
.english { color: #5a6675; font-weight: 400; font-size: .78em; margin-left: .5em; }
.note { color: #465262; font-size: .9rem; max-width: 56rem; }
.say { font-size: 1.1rem; max-width: 56rem; }
.warning { border-left: 5px solid #b45f06; background: #fff6e8; padding: .5rem .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; }
a { color: #0b57a4; }
.scroll { overflow-x: auto; margin: .6rem 0; max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; font-size: .92rem; line-height: 1.35; }
th, td { padding: .4rem .34rem; text-align: right; vertical-align: top; white-space: nowrap;
         border-bottom: 1px solid #e3e7ec; font-variant-numeric: tabular-nums; }
thead th { vertical-align: bottom; border-bottom: 2px solid #9aa7b6; font-weight: 600; }
th:first-child, td.text, th.text { text-align: left; }
th[scope=row] { font-weight: 500; min-width: 5.5rem; max-width: 19rem; white-space: normal;
                overflow-wrap: break-word; position: sticky; left: 0; background: #fff; }
tr.strong > * { background: #eef4fb; }
small { display: block; font-size: .8em; color: #5a6675; font-weight: 400; }
td.text { white-space: normal; min-width: 7rem; }
.mark { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; font-weight: 600;
        border: 2px solid; white-space: nowrap; }
.passed { color: #00603f; background: #e3f4ec; }
.failed { color: #9c1c13; background: #fdeae8; border-style: double; border-width: 4px; }
.not_proven { color: #6b4a00; background: #fff3d6; border-style: dashed; }
.figures { display: grid; gap: 1.6rem 2rem;
           grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure img { width: 100%; height: auto; }
figcaption { font-size: .88rem; color: #465262; }
.essay { border: 1px solid #d5dbe3; border-radius: .4rem; padding: .4rem 1rem 1rem;
         margin: 1.2rem 0; }
.essay > div { display: grid; gap: 1rem 1.6rem;
               grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); }
.pages { display: grid; gap: .6rem; align-content: start;
         grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.pages img { width: 100%; height: auto; border: 1px solid #c5cdd6; }
.pages p { margin: 0; }
.answers { display: grid; gap: .4rem 1.4rem;
           grid-template-columns: repeat(2, minmax(0, 1fr)); }
.essay h3 { margin-top: .6rem; }
h4 { font-size: .95rem; margin: .8rem 0 .2rem; }
pre { font: inherit; font-size: .9rem; white-space: pre-wrap; margin: 0; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: #0b57a4; }
dt { font-weight: 600; }
dd { margin: 0 0 .5rem 1.2rem; break-before: avoid; }
@media (min-width: 660px) { dl { columns: 2; column-gap: 2rem; } }
ul.plain { padding-left: 1.2rem; margin: .5rem 0; }
footer { margin-top: 3rem; color: #5a6675; font-size: .85rem; }
@media screen and (max-width: 760px) {
  .essay > div, .answers { grid-template-columns: minmax(0, 1fr); }
  th, td { padding: .35rem .5rem; }
  th[scope=row] { min-width: 6rem; max-width: 8rem; }
  td.text { min-width: 5rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, details > summary { display: none; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; }
  th[scope=row] { min-width: 6em; }
  tr, .warning, .essay { break-inside: avoid; }
  .essay { margin: .5rem 0; padding: .2rem .6rem .5rem; }
  .essay > div { grid-template-columns: minmax(0, 3fr) minmax(0, 4fr); }
  h2 { margin-top: 1.4rem; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .8rem 1.4rem; }
  /* What the numbers mean belongs on paper too; raw answers do not. */
  details.printed::details-content { content-visibility: visible; block-size: auto; }
  h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; }
}
"""

_VOID = {"img", "meta", "br"}


class Html(str):
    """Markup, as opposed to text that still has to be escaped."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str) -> Html:
    """One element.

    Args:
        tag: Its name.
        children: Text, which is escaped, or ``Html``, which is not.
        attributes: Escaped; a trailing underscore falls away (``class_``), others become hyphens.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
    )
    if tag in _VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*parts: str) -> Html:
    """Parts one after the other; text among them is escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def bilingual(tag: str, chinese: str, english: str, **attributes: str) -> Html:
    """A heading with its English name behind it."""
    return element(tag, chinese, element("span", english, class_="english"), **attributes)


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    label: str,
    strong_rows: int = 0,
    text_columns: Sequence[int] = (),
) -> Html:
    """A table in a box of its own that scrolls sideways when it is wider than the page.

    Args:
        headings: One a column.
        rows: Cells as text or ``Html``; the first cell of a row names it.
        label: What the table shows, for screen readers.
        strong_rows: So many rows from the top stand out.
        text_columns: Columns of words, set from the left and broken into lines.
    """

    def cell(tag: str, column: int, content: str, **attributes: str) -> Html:
        text = {"class_": "text"} if column in text_columns else {}
        return element(tag, content, **attributes, **text)

    head = [cell("th", column, heading, scope="col") for column, heading in enumerate(headings)]
    body = []
    for i, (name, *numbers) in enumerate(rows):
        cells = [cell("td", column, number) for column, number in enumerate(numbers, start=1)]
        strong = {"class_": "strong"} if i < strong_rows else {}
        body.append(element("tr", element("th", name, scope="row"), *cells, **strong))
    inner = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    # Focusable, so that it can be scrolled without a mouse.
    return element("div", inner, class_="scroll", role="region", aria_label=label, tabindex="0")


def document(title: str, language: str, *body: str) -> str:
    """A whole HTML file."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", *body), lang=language) + "\n"
