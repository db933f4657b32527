"""A folder in the layout of AES-Dataset -> Drafts with one holistic score.

The folder as it lies: ``scores.txt`` in GB18030 with id, title and score between tabs, and
``essays/<id>.txt`` in UTF-8 with the title (or a blank) on the first line and a paragraph on each
further one, or page images in its place (``aes.corpus.essay_files``). Blank lines are layout; a
paragraph keeps the white space it begins with, which is its indent. A
first line that is as long as a paragraph and equals the listed title is the writing task, and the
title follows it (so in eight essays of AES-Dataset).

This module reports what cannot be read or does not fit together; what the essays hold is the
business of ``aes.corpus.check``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from pydantic.dataclasses import dataclass

from aes.corpus.base import SCHEMA, Corpus
from aes.corpus.check import Draft
from aes.corpus.essay_files import EssayFiles, group_files, list_files, possible_ids
from aes.corpus.problems import Ledger
from aes.corpus.score_list import SCORES_FILE, Row, read_rows, read_score, report_repeats
from aes.corpus.titles import read_heading
from aes.records import Essay

ESSAYS_FOLDER = "essays"
TRAIT = "holistic"
_LINE_END = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_BLANK = " \t\u3000\xa0\ufeff"


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class AesDataset(Corpus):
    """Essays with one score each, from a folder.

    Attributes:
        root: The folder that holds ``scores.txt`` and ``essays``.
    """

    root: Path
    traits: ClassVar[tuple[str, ...]] = (TRAIT,)

    def _load(self, ledger: Ledger) -> list[Draft]:
        paths = self._list_files()
        rows = read_rows(self.root.expanduser() / SCORES_FILE, ledger, known=possible_ids(paths))
        files, strangers = group_files(paths, rows)
        drafts = []
        for same_id in rows.values():
            report_repeats(same_id, ledger)
            if same_id and (draft := _read_essay(same_id[0], files.get(same_id[0].id), ledger)):
                drafts.append(draft)
        for path in strangers:
            message = f"{SCORES_FILE} has no row for {path.stem}."
            file = _relative(path)
            ledger.report("essay_without_row", id=path.stem, file=file, message=message)
        return drafts

    def _list_files(self) -> list[Path]:
        """Texts and images, by absolute path.

        Raises:
            ValueError: If the folder or a part of it is missing, or there is no essay.
        """
        root = self.root.expanduser().absolute()
        for path in (root, root / ESSAYS_FOLDER):
            if not path.is_dir():
                raise ValueError(f"There is no folder {path}: set data.root to the data set.")
        if not (root / SCORES_FILE).is_file():
            raise ValueError(
                f"There is no file {root / SCORES_FILE}: set data.root to the data set."
            )
        paths = list_files(root / ESSAYS_FOLDER)
        if not paths:
            raise ValueError(
                f"{root / ESSAYS_FOLDER} holds neither .txt files nor images: set data.root to "
                "another folder."
            )
        return paths


def _relative(path: Path) -> str:
    return f"{ESSAYS_FOLDER}/{path.name}"


def _read_essay(row: Row, files: EssayFiles | None, ledger: Ledger) -> Draft | None:
    """The essay of a row; None if it cannot be read at all."""
    score = read_score(row, ledger)
    scores = {} if score is None else {TRAIT: score}
    if files is None:
        message = f"The row names {row.id}, but {ESSAYS_FOLDER} holds neither text nor image of it."
        ledger.report(
            "missing_essay_file", id=row.id, file=SCORES_FILE, line=row.line, message=message
        )
        return None
    _check_files(row, files, ledger)
    if files.text:
        return _read_typed(row, scores, files.text, ledger)
    essay = Essay(
        id=row.id,
        title=row.title,
        pages=files.pages,
        scores=scores,
        source=row.id,
        file=_relative(files.first),
    )
    return Draft(essay=essay, score_place=(SCORES_FILE, row.line), title_line=0, lines=())


def _check_files(row: Row, files: EssayFiles, ledger: Ledger) -> None:
    """Reports files that contradict each other, and pages that are missing."""
    file = _relative(files.first)
    if files.spare:
        names = ", ".join(path.name for path in files.spare)
        message = f"{row.id} has other files too: {names}."
        ledger.report("ambiguous_files", id=row.id, file=file, message=message)
    if files.gaps:
        numbers = ", ".join(map(str, files.gaps[:5]))
        message = f"{row.id} has later pages, but no page {numbers}."
        ledger.report("missing_page", id=row.id, file=file, message=message)


def _read_typed(row: Row, scores: dict[str, int], path: Path, ledger: Ledger) -> Draft | None:
    """Decodes a typed essay; None, and reported, if that cannot be done."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        message = f"Byte {error.start + 1} of the file is not UTF-8."
        ledger.report(
            "undecodable_essay", id=row.id, file=_relative(path), line=line, message=message
        )
        return None
    return _read_text(row, scores, text, _relative(path), ledger)


def _read_text(
    row: Row, scores: dict[str, int], text: str, file: str, ledger: Ledger
) -> Draft | None:
    """Takes title and paragraphs apart; None, and reported, if there are none."""
    lines = [line.rstrip(_BLANK) for line in _LINE_END.split(text)]
    numbers = [i for i, line in enumerate(lines, start=1) if line]
    if not numbers:
        ledger.report("empty_essay", id=row.id, file=file, message="The file is blank.")
        return None
    present = [lines[i - 1].lstrip(_BLANK) for i in numbers]
    heading = read_heading(row.title, present, is_untitled=numbers[0] != 1)
    if not heading.agrees:
        # What the file begins with may be a sentence of the pupil's: it is not quoted.
        message = (
            f"Line {row.line} of {SCORES_FILE} names this essay '{row.title[:60]}', "
            "but the file begins otherwise."
        )
        ledger.report("title_not_in_file", id=row.id, file=file, line=numbers[0], message=message)
    title_lines = [i for k, i in enumerate(numbers) if present[k] == heading.title]
    essay = Essay(
        id=row.id,
        title=heading.title,
        text="\n".join(lines[numbers[k] - 1] for k in heading.body),
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
