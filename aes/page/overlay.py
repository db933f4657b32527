"""Pages and a note -> pages with the note written on them, beside the essay and not in it.

The note stands in lines of its own, off the squares of squared paper, with blank paper around it;
what follows moves down and the page grows by whole tokens. Where a page has no room left the note
gets a sheet to itself. Knows nothing of what the note says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aes.page.draw import FULL_INK, draw_coverage
from aes.page.font import Face, open_face
from aes.page.layout import Row, Sheet, round_up, stack
from aes.page.plain import plain_rows
from aes.page.spec import PageSpec
from aes.records import PageLayout, TextLine

Place = Literal["begin", "middle", "end"]

_GLYPHS_A_WIDTH = 30
"""Characters of a note across the width of an image, whose own hand nobody has measured."""

_MIN_GLYPH_PX = 10

_SPACING = 1.1

_SEARCH_SHARE = 0.1
"""How far from an image's middle a gap between lines is looked for, as a share of its height."""


def note_on_layouts(
    pages: Sequence[PageLayout],
    note: str,
    *,
    place: Place,
    spec: PageSpec,
    font: Path,
    ink: int = FULL_INK,
) -> tuple[PageLayout, ...]:
    """Writes a note on planned pages, in the essay's type size.

    Args:
        pages: Of one essay, as ``PageRenderer.layout`` gives them.
        note: One paragraph.
        place: Above the first line, between the two middle lines, or under the last one.
        spec: How the pages were set.
        font: File of the type.
        ink: Darkness of the note, 0 (the paper's white) to 255.

    Returns:
        The pages, at most one of them changed or added; sides are multiples of 32 px.
    """
    assert 0 <= ink <= FULL_INK
    assert spec.glyph_px is not None
    at, num_above = _find(pages, place)
    page = pages[at]
    inset_x_px, inset_y_px = spec.insets_px
    _, max_height_px = spec.sides_px
    sheet = Sheet(page.width_px, max_height_px, spec.areas_px[0], inset_x_px, inset_y_px)
    rows = _note_rows(note, open_face(font, spec.glyph_px), sheet)
    grown = _open_gap(page, rows, num_above, inset_y_px=inset_y_px, ink=ink)
    if grown.height_px <= max_height_px:
        return (*pages[:at], grown, *pages[at + 1 :])
    # Seeds of scans: past those of the essay's own pages.
    own = stack(rows, sheet, columns=(), seed=page.seed + (len(pages) << 32))
    own = tuple(dataclasses.replace(p, lines=_inked(p.lines, ink)) for p in own)
    at += num_above > 0
    return (*pages[:at], *own, *pages[at:])


def note_on_image(
    image: Image.Image, note: str, *, place: Place, font: Path, ink: int = FULL_INK
) -> Image.Image:
    """Writes a note on an opened page, on a strip of paper that is let in.

    Args:
        image: RGB.
        note: One paragraph.
        place: At the top, in the emptiest row of pixels near the middle, or at the bottom.
        font: File of the type.
        ink: Darkness of the note, 0 (the paper's own colour) to 255.

    Returns:
        An RGB image of the same width and a greater height, which need not be a multiple of 32.
    """
    assert 0 <= ink <= FULL_INK
    glyph_px = max(_MIN_GLYPH_PX, image.width // _GLYPHS_A_WIDTH)
    strip_width = image.width
    sheet = Sheet(strip_width, image.height, 1, glyph_px // 2, glyph_px // 2)
    rows = _note_rows(note, open_face(font, glyph_px), sheet)
    lines = _set(rows, glyph_px // 2, ink)
    height_px = lines[-1].y_px + glyph_px + glyph_px // 2
    coverage = draw_coverage(PageLayout(strip_width, height_px, lines), font)
    pixels = np.asarray(image)
    paper = np.median(pixels[::8, ::8].reshape(-1, 3), axis=0)
    strip = np.rint(paper * (1 - coverage[:, :, None] / FULL_INK)).astype(np.uint8)
    cut = {"begin": 0, "middle": _emptiest_row(pixels), "end": image.height}[place]
    return Image.fromarray(np.concatenate([pixels[:cut], strip, pixels[cut:]]))


def _find(pages: Sequence[PageLayout], place: Place) -> tuple[int, int]:
    """Index of the page to write on, and how many of its lines stand above the note."""
    if place == "begin":
        return 0, 0
    if place == "end":
        return len(pages) - 1, len(pages[-1].lines)
    above = sum(len(page.lines) for page in pages) // 2
    for at, page in enumerate(pages):
        if above <= len(page.lines):
            return at, above
        above -= len(page.lines)
    raise AssertionError("half of the lines are among the lines")


def _note_rows(note: str, face: Face, sheet: Sheet) -> list[Row]:
    rows = list(plain_rows("", note, faces=(face, face), sheet=sheet, spacing=_SPACING, indent=0))
    assert rows, "a note says something"
    return rows


def _open_gap(
    page: PageLayout, rows: Sequence[Row], num_above: int, *, inset_y_px: int, ink: int
) -> PageLayout:
    """Moves what stands below the note down and writes the note; the page may become too high."""
    blank_px = rows[0].size_px // 2
    above, below = page.lines[:num_above], page.lines[num_above:]
    # Squares lie around their line: those of lines further down begin below the line's top.
    limit_px = above[-1].y_px if above else -1
    cells_above = tuple(cell for cell in page.cells if cell[1] <= limit_px)
    cells_below = tuple(cell for cell in page.cells if cell[1] > limit_px)
    top_px = _bottom(above, cells_above) + blank_px if above else inset_y_px
    lines = _set(rows, top_px, ink)
    bottom_px = _bottom(lines, ())
    if below:
        first_px = min([below[0].y_px, *(y for _, y, _ in cells_below)])
        by_px = bottom_px + blank_px - first_px
        below = tuple(dataclasses.replace(line, y_px=line.y_px + by_px) for line in below)
        cells_below = tuple((x, y + by_px, side) for x, y, side in cells_below)
        bottom_px = _bottom(below, cells_below)
    return dataclasses.replace(
        page,
        height_px=max(page.height_px, round_up(bottom_px + inset_y_px)),
        lines=(*above, *lines, *below),
        cells=(*cells_above, *cells_below),
    )


def _set(rows: Sequence[Row], top_px: int, ink: int) -> tuple[TextLine, ...]:
    """Rows at their places from ``top_px`` down."""
    pitch_px = rows[0].pitch_px
    return tuple(
        TextLine(row.text, row.xs_px, top_px + i * pitch_px, row.size_px, ink)
        for i, row in enumerate(rows)
    )


def _inked(lines: Sequence[TextLine], ink: int) -> tuple[TextLine, ...]:
    return tuple(dataclasses.replace(line, ink=ink) for line in lines)


def _bottom(lines: Sequence[TextLine], cells: Sequence[tuple[int, int, int]]) -> int:
    """Lower edge of what is lowest."""
    edges = [line.y_px + line.size_px for line in lines] + [y + side + 1 for _, y, side in cells]
    return max(edges)


def _emptiest_row(pixels: NDArray[np.uint8]) -> int:
    """The row near the middle along which the grey changes least: between two lines, if any."""
    grey = pixels.mean(axis=2)
    height = len(grey)
    reach = max(1, int(height * _SEARCH_SHARE))
    first = max(0, height // 2 - reach)
    band = grey[first : height // 2 + reach]
    change = np.abs(np.diff(band, axis=1)).sum(axis=1)
    # Of equally empty rows the one nearest to the middle.
    far = np.abs(np.arange(len(band)) - (height // 2 - first))
    return first + int(np.lexsort((far, change))[0])
