"""Drafts of essays, as they were read -> Problems of their content, and mended essays.

Checks what every corpus has in common: characters, length, score range, duplicates. It knows
neither file formats nor fonts (``find_undrawable`` and ``open_page`` ask whoever makes the pages).

Essays that came as images have no characters to check: their pages are opened once each, and are
copies of each other where files are equal to the byte.

Characters: zero-width marks vanish without a word, for they neither say nor show anything. Control
and private-use characters and U+FFFD are reported and removed. A character that means something
but that the font lacks is a doubt about the essay; where it is kept, □ stands for the character.

Duplicates: of copies with one score the first stays. Copies with different scores are all dropped,
for nothing tells which score is right and a wrong label is worse than a missing one, unless
another problem speaks against all but one score (a row whose file holds another essay).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from aes.corpus.duplicates import Overlap, find_overlaps, find_shared_pages, group_pairs
from aes.corpus.problems import Ledger
from aes.records import Essay

FindUndrawable = Callable[[str], Sequence[str]]
"""Takes a text, returns the characters that the font lacks, in any order."""

OpenPage = Callable[[Path], object]
"""Takes an image file, raises ValueError with one sentence if it cannot be a page."""

REPLACEMENT = "\ufffd"
PLACEHOLDER = "□"
_MAX_NAMED = 5


@dataclass(frozen=True)
class Draft:
    """An essay as it stands in its file.

    Attributes:
        essay: With raw title and text; ``scores`` are empty if they could not be read.
        score_place: File and line of the score, for messages.
        title_line: Line of the title within ``essay.file``; 0 where lines mean nothing.
        lines: Line of each paragraph of ``essay.text``.
    """

    essay: Essay
    score_place: tuple[str, int]
    title_line: int
    lines: tuple[int, ...]

    @property
    def numbered(self) -> list[tuple[int, str]]:
        """Title and paragraphs with their lines."""
        texts = (self.essay.title, *self.essay.text.split("\n"))
        return list(zip((self.title_line, *self.lines), texts, strict=False))


def check_drafts(
    drafts: Sequence[Draft],
    ledger: Ledger,
    *,
    find_undrawable: FindUndrawable,
    open_page: OpenPage,
    ranges: Mapping[str, tuple[int, int]],
    min_chars: int,
    max_chars: int,
) -> list[Essay]:
    """Reports what is wrong with the drafts' content and returns them mended, in order.

    Args:
        drafts: What was read.
        ledger: Takes the problems; what it holds already counts when copies disagree.
        find_undrawable: Finds the characters of a text that the font lacks.
        open_page: Opens an image file, or raises ValueError with the reason why it cannot.
        ranges: Lowest and highest score by trait.
        min_chars: Least number of characters of a body, white space not counted.
        max_chars: Largest number of the same.
    """
    essays, comparable = [], []
    for draft in drafts:
        essay, pages = draft.essay, draft.essay.page_files
        _check_scores(draft, ledger, ranges)
        if pages:
            essay = replace(essay, title=remove_strays(essay.title).strip())
            pages = pages if _check_pages(essay, ledger, open_page) else ()
        else:
            essay = _check_characters(draft, ledger, find_undrawable)
            _check_length(essay, ledger, min_chars, max_chars)
        essays.append(essay)
        comparable.append(pages)
    overlaps = find_overlaps([essay.text for essay in essays]) + find_shared_pages(comparable)
    _report_overlaps(overlaps, essays, drafts, ledger)
    return essays


def remove_strays(text: str) -> str:
    """The text without zero-width, control and private-use characters and U+FFFD."""
    # Most texts have few different characters and no strays at all.
    strays = {c for c in set(text) if _kind(c)}
    return "".join(c for c in text if c not in strays) if strays else text


@lru_cache(maxsize=1 << 16)
def _kind(char: str) -> str:
    """The problem's code for a character that has no place in an essay; ``Cf`` if zero-width."""
    category = unicodedata.category(char)
    if char == REPLACEMENT:
        return "lost_character"
    if category in ("Cc", "Co") and char not in "\n\t":
        return "stray_character"
    return "Cf" if category == "Cf" else ""


def _check_scores(draft: Draft, ledger: Ledger, ranges: Mapping[str, tuple[int, int]]) -> None:
    file, line = draft.score_place
    for trait, score in draft.essay.scores.items():
        low, high = ranges[trait]
        if not low <= score <= high:
            message = f"The score {score} for {trait} is not within {low} and {high}."
            ledger.report(
                "score_out_of_range", id=draft.essay.id, file=file, line=line, message=message
            )


def _check_pages(essay: Essay, ledger: Ledger, open_page: OpenPage) -> bool:
    """Opens each page, reports those that cannot be read; whether all can."""
    all_open = True
    for page in essay.page_files:
        try:
            open_page(page)
        except ValueError as error:
            all_open = False
            file = str(PurePosixPath(essay.file).with_name(page.name))
            message = str(error).replace(str(page), page.name)
            ledger.report("unreadable_page", id=essay.id, file=file, message=message)
    return all_open


def _check_characters(draft: Draft, ledger: Ledger, find_undrawable: FindUndrawable) -> Essay:
    """Reports characters that have no place in an essay, and returns it without them."""
    essay = draft.essay
    present = set(essay.title + essay.text)
    found = {
        code: _find_places(draft, {char for char in present if _kind(char) == code})
        for code in ("stray_character", "lost_character")
    }
    paragraphs = map(_mend_paragraph, essay.text.split("\n"))
    essay = replace(
        essay, title=remove_strays(essay.title).strip(), text="\n".join(filter(None, paragraphs))
    )
    missing = set(find_undrawable(essay.title + essay.text)) - {"\n", "\t"}
    found["undrawable_character"] = _find_places(draft, missing)
    for code, places in found.items():
        if places:
            _report_characters(code, draft, places, ledger)
    table = str.maketrans(dict.fromkeys(missing, PLACEHOLDER))
    return replace(essay, title=essay.title.translate(table), text=essay.text.translate(table))


def _find_places(draft: Draft, chars: Set[str]) -> list[tuple[int, str]]:
    """Line and character of each occurrence, in the order of the file."""
    if not chars:
        return []
    return [(line, char) for line, text in draft.numbered for char in text if char in chars]


def _mend_paragraph(written: str) -> str:
    """The paragraph without strays; its indent stays, tabs further on become spaces."""
    mended = remove_strays(written).rstrip()
    body = mended.lstrip()
    return mended[: len(mended) - len(body)] + body.replace("\t", " ")


def _report_characters(
    code: str, draft: Draft, places: Sequence[tuple[int, str]], ledger: Ledger
) -> None:
    verbs = {
        "stray_character": "Characters that mean nothing (control or private use)",
        "lost_character": "Characters that an earlier conversion lost",
        "undrawable_character": "Characters that the font lacks",
    }
    names = sorted({char for _, char in places})
    shown = ", ".join(f"U+{ord(c):04X}{_glyph(c)}" for c in names[:_MAX_NAMED])
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    message = f"{verbs[code]}: {shown}{more}, {len(places)} in all."
    essay = draft.essay
    ledger.report(code, id=essay.id, file=essay.file, line=places[0][0], message=message)


def _glyph(char: str) -> str:
    return f" {char}" if char.isprintable() and char != REPLACEMENT else ""


def _check_length(essay: Essay, ledger: Ledger, min_chars: int, max_chars: int) -> None:
    num_chars = len("".join(essay.text.split()))
    if num_chars == 0:
        message = "The essay has no text."
        ledger.report("empty_essay", id=essay.id, file=essay.file, message=message)
    elif num_chars < min_chars:
        message = f"The essay has {num_chars} characters, fewer than {min_chars}."
        ledger.report("too_short", id=essay.id, file=essay.file, message=message)
    elif num_chars > max_chars:
        message = f"The essay has {num_chars} characters, more than {max_chars}."
        ledger.report("too_long", id=essay.id, file=essay.file, message=message)


def _report_overlaps(
    overlaps: Sequence[Overlap], essays: Sequence[Essay], drafts: Sequence[Draft], ledger: Ledger
) -> None:
    same = [(o.first, o.second) for o in overlaps if o.is_same]
    for group in group_pairs(len(essays), same):
        if len(group) > 1:
            _report_copies([drafts[i] for i in group], ledger)
    _report_near_copies([o for o in overlaps if not o.is_same], essays, ledger)


def _report_copies(copies: Sequence[Draft], ledger: Ledger) -> None:
    """One problem for each copy but the one that stays, if any can."""
    sound = [d for d in copies if ledger.is_sound(d.essay.id)]
    agree = len({tuple(d.essay.scores.items()) for d in sound}) == 1
    stays = sound[0] if agree else None
    for draft in copies:
        if draft is stays:
            continue
        others = [d.essay for d in copies if d is not draft]
        conflicts = any(o.scores != draft.essay.scores for o in others)
        twins = ", ".join(f"{o.id} ({o.file}), score {_total(o)}" for o in others)
        message = f"The same essay, here with score {_total(draft.essay)}, also stands as {twins}."
        file, line = draft.score_place
        code = "conflicting_scores" if conflicts else "duplicate"
        ledger.report(code, id=draft.essay.id, file=file, line=line, message=message)


def _total(essay: Essay) -> str:
    return str(sum(essay.scores.values())) if essay.scores else "unknown"


def _report_near_copies(
    overlaps: Sequence[Overlap], essays: Sequence[Essay], ledger: Ledger
) -> None:
    """One problem for each essay that has much of an earlier one, naming the nearest."""
    nearest: dict[int, Overlap] = {}
    for overlap in sorted(overlaps, key=lambda o: -o.shared):
        nearest.setdefault(overlap.second, overlap)
    for second, overlap in sorted(nearest.items()):
        twin, essay = essays[overlap.first], essays[second]
        message = (
            f"{overlap.shared:.0%} of the shorter one of {essay.id} and {twin.id} ({twin.file}) "
            "stands in both."
        )
        ledger.report("near_duplicate", id=essay.id, file=essay.file, message=message)
