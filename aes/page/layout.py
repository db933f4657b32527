"""Turns lines of text into pages: what stands on which page, and how large each page is.

Knows widths and heights, neither fonts nor pixels' colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aes.page.font import is_invisible
from aes.page.spec import SIDE_STEP_PX
from aes.records import PageLayout, TextLine

TAB = "\u3000\u3000"
"""A tab in an essay stands for the indent of a paragraph."""


@dataclass(frozen=True)
class Row:
    """A line of text before it is known where down the page it stands.

    Attributes:
        text: Its characters.
        xs_px: Left edge of each, from the page's left edge.
        size_px: Font size.
        height_px: Of its box.
        pitch_px: From its top to the next row's.
        may_narrow: Whether a page that holds nothing else may be narrower than full width.
    """

    text: str
    xs_px: tuple[int, ...]
    size_px: int
    height_px: int
    pitch_px: int
    may_narrow: bool = False


@dataclass(frozen=True)
class Sheet:
    """How large a page may be, and the blank paper around its text, in px."""

    width_px: int
    max_height_px: int
    min_pixels: int
    inset_x_px: int
    inset_y_px: int

    @property
    def text_width_px(self) -> int:
        """Room for text."""
        return self.width_px - 2 * self.inset_x_px


def paragraphs(text: str) -> Iterator[tuple[str, str]]:
    """Split text at its line ends.

    Yields:
        The white space at a paragraph's start and the rest of it; blank lines are left out.
    """
    for line in text.replace("\t", TAB).split("\n"):
        visible = "".join(char for char in line if not is_invisible(char)).rstrip()
        if visible:
            body = visible.lstrip()
            yield visible[: len(visible) - len(body)], body


def stack(
    rows: Sequence[Row], sheet: Sheet, *, columns: Sequence[tuple[int, int]], seed: int
) -> tuple[PageLayout, ...]:
    """Stack rows on as many pages as they need.

    Args:
        rows: Non-empty, in order.
        sheet: The page.
        columns: (x, side) of every square of a row on squared paper; empty on plain paper.
        seed: Of the first page; later pages get others.
    """
    pages = []
    for index, (tops_px, page_rows) in enumerate(_paginate(rows, sheet)):
        lines = tuple(
            TextLine(row.text, row.xs_px, top + (row.height_px - row.size_px) // 2, row.size_px)
            for top, row in zip(tops_px, page_rows, strict=True)
        )
        cells = tuple((x, top, side) for top in tops_px for x, side in columns)
        width_px, height_px = _trim(tops_px, page_rows, sheet)
        pages.append(PageLayout(width_px, height_px, lines, cells, seed + (index << 32)))
    return tuple(pages)


def _paginate(rows: Sequence[Row], sheet: Sheet) -> Iterator[tuple[list[int], list[Row]]]:
    """The rows of each page and their tops."""
    bottom_px = sheet.max_height_px - sheet.inset_y_px
    tops_px: list[int] = []
    page_rows: list[Row] = []
    top_px = sheet.inset_y_px
    for row in rows:
        if page_rows and top_px + row.height_px > bottom_px:
            yield tops_px, page_rows
            tops_px, page_rows, top_px = [], [], sheet.inset_y_px
        tops_px.append(top_px)
        page_rows.append(row)
        top_px += row.pitch_px
    yield tops_px, page_rows


def _trim(tops_px: Sequence[int], rows: Sequence[Row], sheet: Sheet) -> tuple[int, int]:
    """The page of least area that holds its rows; the widest of several."""
    need_height_px = tops_px[-1] + rows[-1].height_px + sheet.inset_y_px
    need_width_px = sheet.width_px
    if len(rows) == 1 and rows[0].may_narrow:
        right_px = rows[0].xs_px[-1] + rows[0].size_px + sheet.inset_x_px
        need_width_px = min(round_up(right_px), sheet.width_px)
    sizes = []
    for width_px in range(sheet.width_px, need_width_px - 1, -SIDE_STEP_PX):
        height_px = round_up(max(need_height_px, -(-sheet.min_pixels // width_px)))
        if height_px <= sheet.max_height_px:
            sizes.append((width_px, height_px))
    return min(sizes, key=lambda size: size[0] * size[1])


def round_up(length_px: int) -> int:
    """The next multiple of a token's side."""
    return -(-length_px // SIDE_STEP_PX) * SIDE_STEP_PX
