"""The files of an essay, or the fields of a line -> an Essay, checked and clean.

Whatever speaks against it is a ValueError with a sentence that begins with "it" or a file's name;
the caller says which submission is meant. Opens texts; of PDFs it has the pages counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aes.corpus.essay_files import PAGE_SUFFIXES, TEXT_SUFFIX
from aes.corpus.submission_files import Bundle, readable
from aes.corpus.submission_lines import MAX_LINE_BYTES, check_fields, find_pages
from aes.corpus.submission_text import clean_line, clean_text, decode_text
from aes.records import Essay, PdfPage

PDF_SUFFIX = ".pdf"

Read = tuple[Essay, tuple[str, ...]]
"""An essay and the warnings about it."""


@dataclass(frozen=True, kw_only=True)
class EssayReader:
    """Reads essays within limits.

    Attributes:
        num_pages: Counts the pages of a PDF; ValueError with one sentence if it cannot.
        max_pages: Most pages of an essay.
        max_chars: Most characters of a typed essay with its title, white space not counted.
    """

    num_pages: Callable[[Path], int]
    max_pages: int
    max_chars: int

    def read_bundle(self, bundle: Bundle) -> Read:
        """The essay of a text, of images or of a PDF.

        Raises:
            ValueError: If it cannot be graded.
        """
        essay = Essay(id=bundle.id, source=bundle.id, file=bundle.place)
        if bundle.paths[0].suffix.lower() != TEXT_SUFFIX:
            return replace(essay, pages=self._find_pages(bundle.paths)), ()
        with bundle.paths[0].open("rb") as file:
            raw = file.read(MAX_LINE_BYTES + 1)
        if len(raw) > MAX_LINE_BYTES:
            raise ValueError(f"it has over {MAX_LINE_BYTES // 1024**2} MiB: shorten it.")
        text, warnings = decode_text(raw)
        typed = clean_text(text, title=None, max_chars=self.max_chars)
        return replace(essay, title=typed.title, text=typed.text), warnings + typed.warnings

    def read_fields(self, fields: dict[str, Any], essay: Essay, *, folder: Path) -> Read:
        """The essay of a line.

        Args:
            fields: As they stand there.
            essay: Has the id and the place.
            folder: Where the file lies.

        Raises:
            ValueError: If it cannot be graded.
        """
        warnings = check_fields(fields)
        wrong = fields.get("wrong_characters")
        essay = replace(
            essay,
            topic="\n".join(filter(None, map(clean_line, fields.get("topic", "").splitlines()))),
            wrong_characters=None if wrong is None else tuple(dict.fromkeys(wrong)),
        )
        if "pages" in fields:
            title = " ".join(map(clean_line, fields.get("title", "").splitlines())).strip()
            pages = self._find_pages(find_pages(fields["pages"], folder))
            return replace(essay, title=title, pages=pages), warnings
        typed = clean_text(fields["text"], title=fields.get("title"), max_chars=self.max_chars)
        return replace(essay, title=typed.title, text=typed.text), warnings + typed.warnings

    def _find_pages(self, paths: Sequence[Path]) -> tuple[Path | PdfPage, ...]:
        pages: list[Path | PdfPage] = []
        for path in paths:
            suffix = path.suffix.lower()
            if suffix == PDF_SUFFIX:
                pages += [PdfPage(path, number) for number in range(1, self._count(path) + 1)]
            elif suffix in PAGE_SUFFIXES:
                pages.append(path)
            else:
                raise ValueError(
                    f"{readable(path.name)} is of an unsupported type: hand in .txt, .jsonl, .pdf "
                    f"or an image ({', '.join(sorted(PAGE_SUFFIXES))})."
                )
        if len(pages) > self.max_pages:
            raise ValueError(
                f"it has {len(pages)} pages, more than max_pages={self.max_pages}: raise that, or "
                "hand it in as several essays."
            )
        return tuple(pages)

    def _count(self, path: Path) -> int:
        try:
            return self.num_pages(path)
        except ValueError as error:
            raise ValueError(hide_folder(error, path)) from error


def hide_folder(error: ValueError, path: Path) -> str:
    """An error's sentence that names a file without its folders."""
    return str(error).replace(str(path), readable(path.name))
