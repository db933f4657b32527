"""A list's title for an essay and the essay's first lines -> title, writing task and body.

Titles are copied by hand and by spreadsheets: quotes, punctuation, widths, subtitles, a word more
or less are no sign of a wrong file. Of the 300 rows of AES-Dataset 18 name another essay than
their file holds; those reach a similarity of at most 0.18, the right ones at least 0.8. Titles
that a class filled into one frame ("我因朋友而自豪", "我因爸爸而自豪") reach 0.71.

This module knows lines and titles only, neither files nor scores nor what to do about a mismatch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from aes.corpus.duplicates import fold

NUM_TITLE_LINES = 3
MIN_SIMILARITY = 0.75
# The longest heading of AES-Dataset has 23 characters, the shortest writing task in its place 75.
MAX_TITLE_CHARS = 40
# A shorter title stands in other headings, or even in other sentences, by chance.
_MIN_CHARS_IN_HEADING = 4
_MIN_CHARS_IN_SENTENCE = 6
_SEPARATORS = re.compile(r"[—―–:：|｜()（）《》]+")


@dataclass(frozen=True)
class Heading:
    """What an essay's first lines say about it.

    Attributes:
        title: As the pupil wrote it; the list's where the file has none.
        topic: The writing task, where it stands in the title's place; else empty.
        body: Indices of the lines that are the essay's paragraphs.
        agrees: False if the file's title is another one than the list's.
    """

    title: str
    topic: str
    body: tuple[int, ...]
    agrees: bool


def read_heading(listed: str, lines: Sequence[str], *, is_untitled: bool) -> Heading:
    """Finds title and body, and compares the title with the one that a list gives.

    Args:
        listed: The title by which the list names the essay; empty where it gives none.
        lines: The essay's non-blank lines, at least one.
        is_untitled: Whether the file's first line, the title's place, is blank. Then the title
            may stand on the next line, and if that is a sentence there is nothing to compare.
    """
    every = tuple(range(len(lines)))
    found = find_title(listed, lines)
    if found is None:
        has_title = is_heading(lines[0])
        title, body = (lines[0], every[1:]) if has_title else (listed, every)
        is_other = bool(fold(listed)) and (has_title or not is_untitled)
        return Heading(title, "", body, agrees=not is_other)
    line = lines[found]
    is_listed = fold(line) == fold(listed)
    if is_heading(line) or (is_listed and len(line) <= MAX_TITLE_CHARS):
        return Heading(line, "", every[:found] + every[found + 1 :], agrees=True)
    if found == 0 and is_listed:
        has_title = len(lines) > 1 and is_heading(lines[1])
        return Heading(lines[1] if has_title else "", line, every[1 + has_title :], agrees=True)
    return Heading(listed, "", every, agrees=True)


def find_title(listed: str, lines: Sequence[str]) -> int | None:
    """Index of the line that carries the title, below ``NUM_TITLE_LINES``; None if none does."""
    for i, line in enumerate(lines[:NUM_TITLE_LINES]):
        if is_same_title(listed, line):
            return i
    return None


def is_same_title(listed: str, written: str) -> bool:
    """Whether a line of an essay carries the title under which a list names the essay.

    True where the two are equal but for punctuation, width and case, where a part of one (before
    a dash, after a colon, in brackets) is a part of the other, where one stands within the other
    and is not too short, or where their similarity is at least ``MIN_SIMILARITY``.

    Source: Ratcliff & Metzener (1988), Dr. Dobb's Journal 13(7), for the similarity.
    """
    if _parts(listed) & _parts(written):
        return True
    short, long = sorted((fold(listed), fold(written)), key=len)
    min_chars = _MIN_CHARS_IN_HEADING if is_heading(written) else _MIN_CHARS_IN_SENTENCE
    if len(short) >= min_chars and short in long:
        return True
    # The similarity is at most twice the shorter one's share of both.
    if 2 * len(short) < MIN_SIMILARITY * (len(short) + len(long)):
        return False
    return SequenceMatcher(None, short, long, autojunk=False).ratio() >= MIN_SIMILARITY


def is_heading(line: str) -> bool:
    """Whether a line can be a title: it is short and does not end like a statement."""
    return len(line) <= MAX_TITLE_CHARS and not line.endswith("。")


def unquote(title: str) -> str:
    """Undoes the quoting that a spreadsheet's export puts around a title with commas."""
    if len(title) > 1 and title[0] == title[-1] == '"':
        return title[1:-1].replace('""', '"').strip()
    return title


def _parts(title: str) -> set[str]:
    """The title and its parts, folded."""
    return {fold(part) for part in (title, *_SEPARATORS.split(title))} - {""}
