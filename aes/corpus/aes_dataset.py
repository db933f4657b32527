"""A folder in the layout of AES-Dataset -> Drafts with one holistic score.

The folder as it lies: ``scores.txt`` in GB18030 with id, title and score between tabs, and
``essays/<id>.txt`` in UTF-8 with the title (or a blank) on the first line and a paragraph on each
further one. Blank lines are layout. A first line that is as long as a paragraph and equals the
listed title is the writing task, and the title follows it (so in eight essays of AES-Dataset).
This module reports what cannot be read or does not fit together; what the texts hold is the
business of ``aes.corpus.check``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import ClassVar

from pydantic.dataclasses import dataclass

from aes.corpus.base import SCHEMA, Corpus
from aes.corpus.check import Draft
from aes.corpus.problems import Ledger
from aes.corpus.titles import is_heading, read_heading, unquote
from aes.records import Essay

SCORES_FILE = "scores.txt"
ESSAYS_FOLDER = "essays"
TRAIT = "holistic"
_LINE_END = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_BLANK = " \t\u3000\xa0\ufeff"


@plain_dataclass(frozen=True)
class _Row:
    """A line of the list of scores, split but not judged."""

    id: str
    title: str
    score: str
    line: int


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class AesDataset(Corpus):
    """Essays with one score each, from a folder.

    Attributes:
        root: The folder that holds ``scores.txt`` and ``essays``.
    """

    root: Path
    traits: ClassVar[tuple[str, ...]] = (TRAIT,)

    def _load(self, ledger: Ledger) -> list[Draft]:
        files = self._list_files()
        rows = self._read_rows(ledger, files)
        drafts = []
        for same_id in rows.values():
            _check_repeats(same_id, ledger)
            if same_id and (draft := _read_essay(same_id[0], files, ledger)):
                drafts.append(draft)
        for id in sorted(set(files) - set(rows)):
            message = f"{SCORES_FILE} has no row for {id}."
            ledger.report("essay_without_row", id=id, file=_relative(id), message=message)
        return drafts

    def _list_files(self) -> dict[str, Path]:
        """Essay files by id.

        Raises:
            ValueError: If the folder or a part of it is missing, or there is no essay.
        """
        root = self.root.expanduser()
        for path in (root, root / ESSAYS_FOLDER):
            if not path.is_dir():
                raise ValueError(f"There is no folder {path}: set data.root to the data set.")
        if not (root / SCORES_FILE).is_file():
            raise ValueError(
                f"There is no file {root / SCORES_FILE}: set data.root to the data set."
            )
        files = {p.stem: p for p in sorted((root / ESSAYS_FOLDER).glob("*.txt"))}
        if not files:
            raise ValueError(
                f"{root / ESSAYS_FOLDER} holds no .txt file: set data.root to another folder."
            )
        return files

    def _read_rows(self, ledger: Ledger, files: Mapping[str, Path]) -> dict[str, list[_Row]]:
        """Rows by id in the order of the list; an id whose rows are all malformed has no row.

        Raises:
            ValueError: If the list has no row at all.
        """
        rows: dict[str, list[_Row]] = {}
        raw_lines = (self.root.expanduser() / SCORES_FILE).read_bytes().split(b"\n")
        for number, raw in enumerate(raw_lines, start=1):
            if not raw.strip():
                continue
            row = _parse_row(raw, number)
            if isinstance(row, _Row):
                rows.setdefault(row.id, []).append(row)
                continue
            id = _guess_id(raw, files)
            rows.setdefault(id, [])
            code, message = row
            ledger.report(code, id=id, file=SCORES_FILE, line=number, message=message)
        if not rows:
            raise ValueError(
                f"{self.root / SCORES_FILE} has no row: set data.root to another folder."
            )
        return rows


def _relative(id: str) -> str:
    return f"{ESSAYS_FOLDER}/{id}.txt"


def _parse_row(raw: bytes, line: int) -> _Row | tuple[str, str]:
    """The row, or the code and message of what keeps it from being read."""
    try:
        text = raw.decode("gb18030").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        return "undecodable_row", f"Byte {error.start + 1} of the row is not GB18030."
    fields = [field.strip() for field in text.strip("\r").split("\t")]
    if len(fields) != 3 or not fields[0]:
        return "malformed_row", f"The row has {len(fields)} fields instead of id, title and score."
    return _Row(fields[0], unquote(fields[1]), fields[2], line)


def _guess_id(raw: bytes, files: Mapping[str, Path]) -> str:
    """The first word of a row that cannot be read, if an essay has that name; else empty."""
    words = raw.split()
    first = words[0].decode("ascii", errors="replace") if words else ""
    return first if first in files else ""


def _check_repeats(rows: list[_Row], ledger: Ledger) -> None:
    """Reports each row after an id's first."""
    agree = len({(row.title, row.score) for row in rows}) == 1
    for row in rows[1:]:
        code = "duplicate_row" if agree else "conflicting_rows"
        relation = "agrees with it" if agree else "has another title or score"
        message = f"{row.id} already stands on line {rows[0].line}; this row {relation}."
        ledger.report(code, id=row.id, file=SCORES_FILE, line=row.line, message=message)


def _read_essay(row: _Row, files: Mapping[str, Path], ledger: Ledger) -> Draft | None:
    """The essay of a row; None if it cannot be read at all."""
    scores = _read_score(row, ledger)
    file = _relative(row.id)
    if row.id not in files:
        message = f"The row names {row.id}, but {file} does not exist."
        ledger.report(
            "missing_essay_file", id=row.id, file=SCORES_FILE, line=row.line, message=message
        )
        return None
    raw = files[row.id].read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        message = f"Byte {error.start + 1} of the file is not UTF-8."
        ledger.report("undecodable_essay", id=row.id, file=file, line=line, message=message)
        return None
    return _read_text(row, scores, text, ledger)


def _read_score(row: _Row, ledger: Ledger) -> dict[str, int]:
    """The holistic score; empty, and reported, if it is no whole number."""
    try:
        value = float(row.score)
        if value == int(value):
            return {TRAIT: int(value)}
        code, message = "score_not_whole", f"The score {row.score} is not a whole number."
    except (ValueError, OverflowError):
        shown = f"'{row.score[:20]}'" if row.score else "(nothing)"
        code, message = "score_not_a_number", f"The score is {shown}, which is not a number."
    ledger.report(code, id=row.id, file=SCORES_FILE, line=row.line, message=message)
    return {}


def _read_text(row: _Row, scores: dict[str, int], text: str, ledger: Ledger) -> Draft | None:
    """Takes title and paragraphs apart; None, and reported, if there are none."""
    file = _relative(row.id)
    lines = [line.strip(_BLANK) for line in _LINE_END.split(text)]
    numbers = [i for i, line in enumerate(lines, start=1) if line]
    if not numbers:
        ledger.report("empty_essay", id=row.id, file=file, message="The file is blank.")
        return None
    present = [lines[i - 1] for i in numbers]
    heading = read_heading(row.title, present, is_untitled=numbers[0] != 1)
    if not heading.agrees:
        written = f"'{present[0]}'" if is_heading(present[0]) else "a sentence"
        message = (
            f"Line {row.line} of {SCORES_FILE} names this essay '{row.title[:60]}', "
            f"the file begins with {written}."
        )
        ledger.report("title_not_in_file", id=row.id, file=file, line=numbers[0], message=message)
    title_lines = [i for k, i in enumerate(numbers) if present[k] == heading.title]
    essay = Essay(
        id=row.id,
        title=heading.title,
        text="\n".join(present[k] for k in heading.body),
        scores=scores,
        topic=heading.topic,
        source=row.id,
        file=file,
    )
    return Draft(
        essay=essay,
        score_place=(SCORES_FILE, row.line),
        title_line=title_lines[0] if title_lines else 0,
        lines=tuple(numbers[k] for k in heading.body),
    )
