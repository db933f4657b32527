"""A free text -> which of some choices it is, if any. Knows no model."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def read_choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a free text is, or ``None``: white space and punctuation around it are free.

    A text that says more than a choice is none: what it means would be a guess.
    """
    if text in choices:
        return text
    bare = _bare(text)
    alike = [choice for choice in choices if bare and _bare(choice) == bare]
    return alike[0] if len(alike) == 1 else None


def _bare(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    marks = {char for char in text if unicodedata.category(char)[0] in "PZC"}
    return text.strip("".join(marks))
