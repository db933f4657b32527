"""Turns a paragraph into lines: where Chinese and Latin text may break.

A mark that must not start a line pulls the character before it down to the next line; on squared
paper it hangs past the end of the line instead. Knows widths as numbers and no font.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterator, Sequence

NEVER_FIRST = frozenset(
    "。．，、；：！？”’）〕］｝〉》」』】〗〞·‧・／～％‰℃°々﹐﹑﹒﹔﹕﹖﹗"  # full-width
    "!),.:;?]}%/"
)
NEVER_LAST = frozenset("“‘（〔［｛〈《「『【〖〝／([{￥＄$/")
"""Marks that do not stand at a line's start or end.

Source: GB/T 15834-2011, section 5 (positions of punctuation marks), and their Latin counterparts.
"""

NEVER_SPLIT = frozenset("…—⋯―─")
"""Two of these in a row are one ellipsis or dash (GB/T 15834-2011, section 5)."""

_STRAIGHT_QUOTES = frozenset('"＂')


def may_break(before: str, after: str) -> bool:
    """Whether a line may end after one unit of text and the next begin with another.

    Args:
        before: Its last character counts.
        after: Its first character counts.
    """
    a, b = before[-1], after[0]
    if b in NEVER_FIRST or b.isspace() or unicodedata.combining(b):
        return False
    if a in NEVER_LAST or (a == b and a in NEVER_SPLIT):
        return False
    return not (_is_western(a) and _is_western(b))


def _is_western(char: str) -> bool:
    """Whether a character sticks to its neighbours as in a Latin word or a number."""
    if char in string.punctuation:
        return True
    return char.isalnum() and unicodedata.east_asian_width(char) != "W"


def wrap(
    units: Sequence[str],
    widths_px: Sequence[int],
    *,
    limit_px: int,
    indent_px: int,
    num_hanging: int,
) -> Iterator[tuple[int, int]]:
    """Break a paragraph into lines, each as long as it may be.

    White space at a line's end takes no room. Where nothing may break within a whole line (a word
    longer than a line), it breaks at the edge.

    Args:
        units: What is never split: single characters, or the contents of cells.
        widths_px: Of each unit.
        limit_px: Of a line.
        indent_px: Taken from the first line.
        num_hanging: How many marks that never stand first may hang past a line's end.

    Yields:
        Start and end of each line in ``units``.
    """
    units = _tell_quotes_apart(units)
    start, room_px = 0, limit_px - indent_px
    while start < len(units):
        end = _fill(units, widths_px, start, room_px)
        if end < len(units):
            end = _move_break(units, start, end, num_hanging)
        yield start, end
        start, room_px = end, limit_px


def _fill(units: Sequence[str], widths_px: Sequence[int], start: int, room_px: int) -> int:
    """End of the longest line that fits, at least one unit."""
    used_px = 0
    for i in range(start, len(units)):
        used_px += widths_px[i]
        if used_px > room_px and i > start and not units[i].isspace():
            return i
    return len(units)


def _move_break(units: Sequence[str], start: int, end: int, num_hanging: int) -> int:
    """The break nearest to ``end``: past it by hanging marks, else before it, else right there."""
    hung = end
    # A mark after white space would hang past the white space, too far out.
    most = end if units[end - 1].isspace() else min(end + num_hanging, len(units))
    while hung < most and units[hung][0] in NEVER_FIRST:
        hung += 1
    if hung == len(units) or may_break(units[hung - 1], units[hung]):
        return hung
    for i in range(end, start, -1):
        if may_break(units[i - 1], units[i]):
            return i
    return end


def _tell_quotes_apart(units: Sequence[str]) -> Sequence[str]:
    """Reads straight quotes as opening and closing ones in turn."""
    if _STRAIGHT_QUOTES.isdisjoint(units):
        return units
    told, is_open = list(units), False
    for i, unit in enumerate(told):
        if unit in _STRAIGHT_QUOTES:
            told[i] = "”" if is_open else "“"
            is_open = not is_open
    return told
