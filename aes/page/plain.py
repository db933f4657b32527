"""Turns title and text into rows on blank paper: the title centred, paragraphs indented.

Knows where characters stand in a row; pages come later.
"""

from __future__ import annotations

from collections.abc import Iterator

from aes.page.font import Face
from aes.page.layout import Row, Sheet, paragraphs
from aes.page.linebreak import wrap

TITLE_SCALE = 1.2
"""Size of the title over that of the text."""


def plain_rows(
    title: str, text: str, *, faces: tuple[Face, Face], sheet: Sheet, spacing: float, indent: int
) -> Iterator[Row]:
    """Set title and text.

    Args:
        title: May be empty, or too long for one line.
        text: Paragraphs separated by line ends.
        faces: Of the title and of the text.
        sheet: The page.
        spacing: Distance of two lines over the font size, at least 1.
        indent: Full-width spaces before a paragraph that has no white space of its own.
    """
    title_face, face = faces
    for _, body in paragraphs(title):
        for line, xs_px in _lines(body, title_face, sheet, indent_px=0):
            free_px = sheet.text_width_px - title_face.advance_px(line)
            yield _row(line, [x + free_px // 2 for x in xs_px], title_face, spacing)
    for written, body in paragraphs(text):
        indent_px = face.advance_px(written) if written else indent * face.size_px
        for line, xs_px in _lines(body, face, sheet, indent_px=indent_px):
            yield _row(line, xs_px, face, spacing, may_narrow=True)


def _row(
    line: str, xs_px: list[int], face: Face, spacing: float, *, may_narrow: bool = False
) -> Row:
    pitch_px = max(face.size_px, round(face.size_px * spacing))
    return Row(line, tuple(xs_px), face.size_px, face.size_px, pitch_px, may_narrow)


def _lines(
    body: str, face: Face, sheet: Sheet, *, indent_px: int
) -> Iterator[tuple[str, list[int]]]:
    """The lines of a paragraph and the left edges of their characters."""
    widths_px = [face.glyph(char).advance_px for char in body]
    limit_px = sheet.text_width_px
    # A name set to the right by many spaces stays on the page, and so does a long paragraph.
    indent_px = min(indent_px, max(limit_px - sum(widths_px), limit_px // 2))
    for start, end in wrap(body, widths_px, limit_px=limit_px, indent_px=indent_px, num_hanging=0):
        line = body[start:end].rstrip()
        pen_px = sheet.inset_x_px + (indent_px if start == 0 else 0)
        xs_px = []
        for width_px in widths_px[start : start + len(line)]:
            xs_px.append(pen_px)
            pen_px += width_px
        yield line, xs_px
