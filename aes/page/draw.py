"""Turns a planned page into pixels by stamping cached glyphs on an array.

Knows nothing of essays; what the layout says is drawn, never cut at the page's edge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aes.page.font import open_face
from aes.records import PageLayout, TextLine

FULL_INK = 255

GRID_COVERAGE = 70
"""Ink of the lines of squared paper, of 255: light, so that characters stand out."""


def draw_coverage(page: PageLayout, font: Path) -> NDArray[np.uint8]:
    """Ink at each pixel of a page, 0 (paper) to 255 (ink), shape ``[height, width]``."""
    coverage = np.zeros((page.height_px, page.width_px), np.uint8)
    for x, y, side in page.cells:
        coverage[y : y + side + 1, (x, x + side)] = GRID_COVERAGE
        coverage[(y, y + side), x : x + side + 1] = GRID_COVERAGE
    for line in page.lines:
        _draw_line(coverage, line, font)
    return coverage


def _draw_line(coverage: NDArray[np.uint8], line: TextLine, font: Path) -> None:
    glyph_of = open_face(font, line.size_px).glyph
    page_height_px, page_width_px = coverage.shape
    for char, x_px in zip(line.text, line.xs_px, strict=True):
        glyph = glyph_of(char)
        ink = glyph.ink if line.ink == FULL_INK else _dilute(glyph.ink, line.ink)
        height_px, width_px = ink.shape
        left_px, top_px = x_px + glyph.left_px, line.y_px + glyph.top_px
        right_px, bottom_px = left_px + width_px, top_px + height_px
        if left_px < 0 or top_px < 0 or right_px > page_width_px or bottom_px > page_height_px:
            # Ink may reach past its advance box; at the page's edge it is moved, not cut.
            left_px = max(0, min(left_px, page_width_px - width_px))
            top_px = max(0, min(top_px, page_height_px - height_px))
            right_px, bottom_px = left_px + width_px, top_px + height_px
        place = coverage[top_px:bottom_px, left_px:right_px]
        np.maximum(place, ink, out=place)


def _dilute(ink: NDArray[np.uint8], darkest: int) -> NDArray[np.uint8]:
    """Ink of which the full coverage is ``darkest`` of 255."""
    return (ink.astype(np.uint16) * darkest // FULL_INK).astype(np.uint8)
