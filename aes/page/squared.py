"""Turns title and text into rows on squared paper, as pupils are taught to fill it.

One character or mark a square, two Latin letters or digits may share one, and a closing mark that
would start a line hangs past the last square.
"""

from __future__ import annotations

from collections.abc import Iterator

from aes.page.font import Face
from aes.page.layout import Row, Sheet, paragraphs
from aes.page.linebreak import wrap

CELL_SCALE = 1.2
"""Side of a square over the font size."""

NUM_HANGING = 2
"""Marks that may hang past a row, half a character each: a stop and a closing quote."""


class Grid:
    """The squares of a row: as many as leave room for hanging marks at the right."""

    def __init__(self, face: Face, sheet: Sheet) -> None:
        self.face = face
        self.side_px = round(CELL_SCALE * face.size_px)
        self.num_columns = (sheet.text_width_px - face.size_px) // self.side_px
        width_px = self.num_columns * self.side_px + face.size_px
        self.left_px = sheet.inset_x_px + (sheet.text_width_px - width_px) // 2

    @property
    def columns(self) -> list[tuple[int, int]]:
        """(x, side) of each square."""
        xs_px = (self.left_px + i * self.side_px for i in range(self.num_columns))
        return [(x, self.side_px) for x in xs_px]

    def rows(self, title: str, text: str, *, spacing: float, indent: int) -> Iterator[Row]:
        """Set title and text; the arguments are those of plain paper."""
        pitch_px = round(self.side_px * spacing)
        for _, body in paragraphs(title):
            units = self._units(body)
            first = max(0, self.num_columns - len(units)) // 2
            yield from self._fill(units, first, pitch_px)
        for written, body in paragraphs(text):
            units = self._units(body)
            first = len(self._units(written)) if written else indent
            room = max(self.num_columns - len(units), self.num_columns // 2)
            yield from self._fill(units, min(first, room), pitch_px)

    def _units(self, text: str) -> list[str]:
        """What stands in each square; two half-width spaces leave one blank."""
        units: list[str] = []
        i = 0
        while i < len(text):
            pair = text[i : i + 2]
            unit = pair if self._may_share(pair) else text[i]
            units.append(unit)
            i += len(unit)
        return units

    def _may_share(self, pair: str) -> bool:
        if pair == "  ":
            return True
        return pair.isascii() and pair.isalnum() and self.face.advance_px(pair) <= self.side_px

    def _fill(self, units: list[str], first: int, pitch_px: int) -> Iterator[Row]:
        """Rows of one paragraph, the first starting in column ``first``."""
        breaks = wrap(
            units,
            [1] * len(units),
            limit_px=self.num_columns,
            indent_px=first,
            num_hanging=NUM_HANGING,
        )
        for start, end in breaks:
            text, xs_px = self._place(units[start:end], first if start == 0 else 0)
            yield Row(text, tuple(xs_px), self.face.size_px, self.side_px, pitch_px)

    def _place(self, units: list[str], first: int) -> tuple[str, list[int]]:
        text, xs_px = "", []
        for column, unit in enumerate(units, start=first):
            if unit.isspace():
                continue
            if column < self.num_columns:
                free_px = self.side_px - self.face.advance_px(unit)
                pen_px = self.left_px + column * self.side_px + free_px // 2
            else:
                # The ink of a closing mark fills the left half of its square.
                hung = column - self.num_columns
                pen_px = self.left_px + self.num_columns * self.side_px
                pen_px += hung * self.face.size_px // NUM_HANGING
            for char in unit:
                xs_px.append(pen_px)
                pen_px += self.face.glyph(char).advance_px
            text += unit
        return text, xs_px
