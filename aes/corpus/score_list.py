"""The list of scores of AES-Dataset -> rows of id, title and score.

``scores.txt`` is in GB18030 or UTF-8, with tabs between the fields. This module reports rows that
cannot be read or contradict each other. It knows no essay: which ids are plausible is told by its
caller.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from aes.corpus.problems import Ledger
from aes.corpus.titles import unquote

SCORES_FILE = "scores.txt"
_MAX_QUOTED_SCORE = 4


@dataclass(frozen=True)
class Row:
    """A line of the list, split but not judged.

    Attributes:
        score: As it was written.
        line: 1-based.
    """

    id: str
    title: str
    score: str
    line: int


def read_rows(path: Path, ledger: Ledger, *, known: Container[str]) -> dict[str, list[Row]]:
    """Rows by id in the order of the list; an id whose rows are all malformed has no row.

    Args:
        path: The list.
        ledger: Takes the rows that cannot be read.
        known: Ids by which such a row may be recognised.

    Raises:
        ValueError: If the list has no row at all.
    """
    rows: dict[str, list[Row]] = {}
    content = path.read_bytes()
    encoding = find_encoding(content)
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if not raw.strip():
            continue
        row = _parse_row(raw, number, encoding)
        if isinstance(row, Row):
            rows.setdefault(row.id, []).append(row)
            continue
        id = _guess_id(raw, known)
        rows.setdefault(id, [])
        code, message = row
        ledger.report(code, id=id, file=SCORES_FILE, line=number, message=message)
    if not rows:
        raise ValueError(f"{path} has no row: set data.root to another folder.")
    return rows


def find_encoding(content: bytes) -> str:
    """``utf-8`` if the whole list is that, else ``gb18030``.

    Chinese in GB18030 is practically never valid UTF-8 from end to end, and the reverse would
    read as other characters, so the stricter one is tried first.
    """
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "gb18030"
    return "utf-8"


def report_repeats(rows: Sequence[Row], ledger: Ledger) -> None:
    """Reports each row after an id's first."""
    agree = len({(row.title, row.score) for row in rows}) == 1
    for row in rows[1:]:
        code = "duplicate_row" if agree else "conflicting_rows"
        relation = "agrees with it" if agree else "has another title or score"
        message = f"{row.id} already stands on line {rows[0].line}; this row {relation}."
        ledger.report(code, id=row.id, file=SCORES_FILE, line=row.line, message=message)


def read_score(row: Row, ledger: Ledger) -> int | None:
    """The score of a row; None, and reported, if it is no whole number."""
    try:
        value = float(row.score)
        if value == int(value):
            return int(value)
        code, message = "score_not_whole", f"The score {row.score} is not a whole number."
    except (ValueError, OverflowError):
        # A longer one may be text that slipped into the wrong column: it is not quoted.
        quoted = f" '{row.score}'" if len(row.score) <= _MAX_QUOTED_SCORE else ""
        code, message = "score_not_a_number", f"The score{quoted} is not a number."
        message = message if row.score else "The row has no score."
    ledger.report(code, id=row.id, file=SCORES_FILE, line=row.line, message=message)
    return None


def _parse_row(raw: bytes, line: int, encoding: str) -> Row | tuple[str, str]:
    """The row, or the code and message of what keeps it from being read."""
    try:
        text = raw.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        return "undecodable_row", f"Byte {error.start + 1} of the row is not {encoding.upper()}."
    fields = [field.strip() for field in text.strip("\r").split("\t")]
    if len(fields) != 3 or not fields[0]:
        return "malformed_row", f"The row has {len(fields)} fields instead of id, title and score."
    return Row(fields[0], unquote(fields[1]), fields[2], line)


def _guess_id(raw: bytes, known: Container[str]) -> str:
    """The first word of a row that cannot be read, if a file may have that id; else empty."""
    words = raw.split()
    first = words[0].decode("ascii", errors="replace") if words else ""
    return first if first in known else ""
