"""What is handed in for grading -> Submissions: an essay each, or the reason why there is none.

A file or folder of .txt, images, .pdf and .jsonl. Whatever is wrong with one item is the error of
that item and the others go on; nothing that was handed in is left out. Knows neither rubric nor
model. Images and fonts are looked at in ``check_submission`` only, shortly before grading, so that
thousands of files cost no more than their names and texts here.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from aes.corpus.check import PLACEHOLDER
from aes.corpus.submission_essays import EssayReader, Read, hide_folder
from aes.corpus.submission_files import Bundle, find_bundles
from aes.corpus.submission_lines import parse_line, read_id, read_lines
from aes.corpus.submission_text import count_characters
from aes.records import Essay, PdfPage

LINES_SUFFIX = ".jsonl"

_MARKS = (PLACEHOLDER, "〓")
"""May stand for a character that the font lacks; the first that it has, as in training data."""


class Paper(Protocol):
    """What knows how essays look on a page; ``aes.page.PageRenderer`` is one."""

    def missing_characters(self, text: str) -> list[str]:
        """The characters that the font lacks."""

    def open(self, source: Path | PdfPage) -> object:
        """Open a page; ValueError with one sentence if that cannot be done."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One item that was handed in.

    Attributes:
        id: Unique; of an essay without a readable id, where it stands.
        place: File, or line of a file, for messages.
        essay: ``None`` if there is an error.
        error: Why it cannot be graded, in a sentence; empty if it can.
        warnings: What was mended, in sentences.
    """

    id: str
    place: str
    essay: Essay | None = None
    error: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Changes with what is graded (of pages: size and time of the files); empty on error."""
        essay = self.essay
        if essay is None:
            return ""
        parts: list[object] = [essay.title, essay.text, essay.topic, essay.wrong_characters]
        for page in essay.pages:
            path, number = (page.path, page.number) if isinstance(page, PdfPage) else (page, 0)
            if not path.is_file():
                return ""
            status = path.stat()
            parts.append((number, status.st_size, status.st_mtime_ns))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def read_submissions(
    path: Path, *, num_pages: Callable[[Path], int], max_pages: int, max_chars: int
) -> list[Submission]:
    """Everything that a file or folder holds, in the order of its paths.

    Ids from a .jsonl file in a folder begin with the path of that file.

    Args:
        path: A file or a folder, which is searched through.
        num_pages: Counts the pages of a PDF; ValueError with one sentence if it cannot.
        max_pages: Most pages of an essay.
        max_chars: Most characters of a typed essay with its title, white space not counted.

    Raises:
        ValueError: If there is no such file or folder, or nothing in it.
    """
    reader = EssayReader(num_pages=num_pages, max_pages=max_pages, max_chars=max_chars)
    is_folder = path.is_dir()
    found: dict[str, Submission] = {}
    for bundle in find_bundles(path):
        for submission in _read(bundle, reader, prefix=f"{bundle.id}/" if is_folder else ""):
            first = found.get(submission.id)
            kept = submission if first is None else _repeat(submission, first)
            found[kept.id] = kept
    return list(found.values())


def check_submission(submission: Submission, paper: Paper) -> Submission:
    """Opens the pages, or marks the characters of a typed essay that its page cannot show.

    Returns:
        The submission, perhaps with other characters, a warning or an error.
    """
    essay = submission.essay
    if essay is None:
        return submission
    for page in essay.pages:
        try:
            paper.open(page)
        except ValueError as error:
            sentence = hide_folder(error, page.path if isinstance(page, PdfPage) else page)
            return replace(submission, essay=None, error=_locate(submission.place, sentence))
    return submission if essay.pages else _mark_missing(submission, essay, paper)


def _mark_missing(submission: Submission, essay: Essay, paper: Paper) -> Submission:
    missing = set(paper.missing_characters(essay.title + essay.text))
    # An accent or a variation selector shows nothing without its letter.
    shown = {c for c in essay.text if not c.isspace() and unicodedata.category(c)[0] != "M"}
    if shown <= missing:
        error = f"{submission.place}: the page's font has none of its characters: write others."
        return replace(submission, essay=None, error=error)
    if not missing:
        return submission
    mark = next((mark for mark in _MARKS if not paper.missing_characters(mark)), "")
    table = str.maketrans(dict.fromkeys(missing, mark))
    marked = replace(
        essay, title=essay.title.translate(table).strip(), text=essay.text.translate(table)
    )
    counts = Counter(char for char in essay.title + essay.text if char in missing)
    done = f"shown as {mark}" if mark else "left out"
    warning = f"Characters that the page's font lacks were {done}: {count_characters(counts)}."
    return replace(submission, essay=marked, warnings=(*submission.warnings, warning))


def _read(bundle: Bundle, reader: EssayReader, *, prefix: str) -> Iterator[Submission]:
    """The submissions of a bundle, at least one; ``prefix`` goes before the ids of lines."""
    submission = partial(Submission, id=bundle.id, place=bundle.place)
    if bundle.error:
        yield submission(error=bundle.error)
        return
    try:
        if not all(path.is_file() for path in bundle.paths):
            yield submission(error=f"{bundle.place} is no file or a broken link: remove it.")
        elif bundle.paths[0].suffix.lower() == LINES_SUFFIX:
            num_lines = 0
            for line in _read_lines(bundle, reader, prefix):
                num_lines += 1
                yield line
            if not num_lines:
                yield submission(error=f"{bundle.place} is empty: write an essay on each line.")
        else:
            read = partial(reader.read_bundle, bundle)
            yield _submit(read, id=bundle.id, place=bundle.place)
    except OSError as error:
        reason = f"{bundle.place} cannot be read ({error.strerror})"
        yield submission(error=f"{reason}: change its permissions or copy it anew.")


def _read_lines(bundle: Bundle, reader: EssayReader, prefix: str) -> Iterator[Submission]:
    (path,) = bundle.paths
    for number, raw in read_lines(path):
        id, place = f"{prefix}line {number}", f"line {number} of {bundle.place}"
        try:
            fields = parse_line(raw)
            id = prefix + read_id(fields)
        except ValueError as error:
            yield Submission(id=id, place=place, error=f"{place}: {error}")
            continue
        essay = Essay(id=id, source=id, file=bundle.place, line=number)
        read = partial(reader.read_fields, fields, essay, folder=path.parent)
        yield _submit(read, id=id, place=place)


def _submit(read: Callable[[], Read], *, id: str, place: str) -> Submission:
    try:
        essay, warnings = read()
    except ValueError as error:
        return Submission(id=id, place=place, error=_locate(place, str(error)))
    return Submission(id=id, place=place, essay=essay, warnings=warnings)


def _locate(place: str, sentence: str) -> str:
    """The sentence with its place before it; some begin with the file's name already."""
    name = place.rpartition("/")[2]
    if sentence.startswith(f"{name} "):
        return place + sentence.removeprefix(name)
    return f"{place}: {sentence}"


def _repeat(submission: Submission, first: Submission) -> Submission:
    """A submission whose id is taken."""
    place = submission.place
    return Submission(
        id=f"{submission.id} ({place})",
        place=place,
        error=f"{place}: the id {submission.id} is that of {first.place} too: give each its own.",
    )
