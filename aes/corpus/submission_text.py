"""Typed text as somebody handed it in -> clean title and body, as the corpora have them.

The first line that is not blank is the title if it is short, does not end in 。 and more text
follows (``aes.corpus.titles.is_heading``, as for AES-Dataset). What has no place in an essay is
removed as ``aes.corpus.check`` does it. Knows no font: what a page cannot show is not found here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from aes.corpus.check import remove_strays
from aes.corpus.titles import is_heading

_LINE_END = re.compile(r"\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MAX_NAMED = 5


@dataclass(frozen=True)
class TypedText:
    """Title and body of an essay, and what was mended in them."""

    title: str
    text: str
    warnings: tuple[str, ...]


def decode_text(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """The text of a file and the warnings about it.

    Windows writes UTF-16 with a mark at the start, older programs GB18030.

    Raises:
        ValueError: If it is none of these.
    """
    is_utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ["utf-16"] if is_utf16 else ["utf-8-sig", "gb18030"]:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            is_guess = encoding == "gb18030"
            return text, ("It is not in UTF-8 and was read as GB18030.",) if is_guess else ()
    raise ValueError("it is not text in UTF-8 or GB18030: save it as UTF-8.")


def clean_text(text: str, *, title: str | None, max_chars: int) -> TypedText:
    """Takes title and body apart and cleans them.

    Args:
        text: As it was written.
        title: ``None`` looks for it on the first line; empty says that there is none.
        max_chars: Largest number of characters of both, white space not counted.

    Raises:
        ValueError: If no text is left, or it is too long.
    """
    written = f"{title or ''}\n{text}"
    warnings = _name_strays(written)
    lines = [line for line in map(clean_line, _LINE_END.split(text)) if line]
    if title is not None:
        title = clean_line(_LINE_END.sub(" ", title)).strip()
    elif len(lines) > 1 and is_heading(lines[0].strip()):
        title = lines.pop(0).strip()
    if not lines:
        raise ValueError("there is no text in it: write some, or remove it.")
    num_chars = len("".join(" ".join([title or "", *lines]).split()))
    if num_chars > max_chars:
        raise ValueError(
            f"it has {num_chars} characters, more than max_chars={max_chars}: raise that, or "
            "shorten it."
        )
    return TypedText(title or "", "\n".join(lines), warnings)


def clean_line(written: str) -> str:
    """A line without strays; its indent stays, tabs further on become spaces."""
    mended = remove_strays(_SURROGATE.sub("", written)).rstrip()
    body = mended.lstrip()
    return mended[: len(mended) - len(body)] + body.replace("\t", " ")


def count_characters(counts: Mapping[str, int]) -> str:
    """How a warning names characters: how many, and which (the first few of them)."""
    shown = ", ".join(f"U+{ord(c):04X}{_glyph(c)}" for c in sorted(counts)[:_MAX_NAMED])
    more = f" and {len(counts) - _MAX_NAMED} more" if len(counts) > _MAX_NAMED else ""
    return f"{sum(counts.values())} ({shown}{more})"


def _glyph(char: str) -> str:
    return f" {char}" if char.isprintable() else ""


def _name_strays(written: str) -> tuple[str, ...]:
    """A warning about what cleaning removes; zero-width marks go without a word."""
    counts = Counter(_LINE_END.sub("", written))
    strays = {char: num for char, num in counts.items() if _is_stray(char)}
    if not strays:
        return ()
    return (f"Characters that mean nothing were removed: {count_characters(strays)}.",)


def _is_stray(char: str) -> bool:
    return not clean_line(f"一{char}一")[1:-1] and unicodedata.category(char) != "Cf"
