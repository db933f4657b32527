"""Names of the files in a folder of essays -> the files of each essay, in reading order.

An essay is typed (``<id>.txt``) or came as page images: ``<id>.png`` where it has one page,
``<id>-1.png``, ``<id>-2.png`` and so on where it has several. Suffixes in capitals are as good.
``A-0001.png`` may be an essay or page 1 of ``A``: an id that is listed as a whole goes first.

Where an id has both, the text counts, since it alone can be checked; numbered pages go before an
image without a number, and of several files for one page the first by name counts. This module
looks at names alone: it opens no file, and what becomes of such an essay is not its business.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TEXT_SUFFIX = ".txt"
PAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
# More digits are a date or a camera's counter, and no number of a page.
_NUMBERED = re.compile(r"(.+)-(0*[1-9][0-9]{0,2})")


@dataclass(frozen=True)
class EssayFiles:
    """The files of one essay.

    Attributes:
        text: The typed essay; None if it came as images.
        pages: Its images in reading order; empty if it is typed.
        spare: Files that cannot stand beside those that count.
        gaps: Numbers of the pages that are missing before the last one.
    """

    text: Path | None
    pages: tuple[Path, ...]
    spare: tuple[Path, ...]
    gaps: tuple[int, ...]

    @property
    def first(self) -> Path:
        """The text or the first page, to name the essay by."""
        return self.text or self.pages[0]


def list_files(folder: Path) -> list[Path]:
    """The texts and images of a folder by name; hidden and all other files are left alone."""
    suffixes = PAGE_SUFFIXES | {TEXT_SUFFIX}
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )


def possible_ids(paths: Iterable[Path]) -> set[str]:
    """Every id that one of the files may belong to."""
    return {id for path in paths for id, _ in _readings(path)}


def group_files(
    paths: Iterable[Path], ids: Container[str]
) -> tuple[dict[str, EssayFiles], list[Path]]:
    """Gives each file to the essay that it belongs to.

    Args:
        paths: As ``list_files`` gives them.
        ids: The essays that are listed.

    Returns:
        The files of each listed essay that has any, and the files that belong to none.
    """
    found: dict[str, list[tuple[int, Path]]] = {}
    strangers = []
    for path in paths:
        reading = next(((id, n) for id, n in _readings(path) if id in ids), None)
        if reading is None:
            strangers.append(path)
        else:
            found.setdefault(reading[0], []).append((reading[1], path))
    return {id: _choose(files) for id, files in found.items()}, strangers


def _readings(path: Path) -> list[tuple[str, int]]:
    """Id and page number (0: none) that the name may mean, the likelier one first."""
    match = _NUMBERED.fullmatch(path.stem) if path.suffix.lower() != TEXT_SUFFIX else None
    return [(path.stem, 0), *([(match[1], int(match[2]))] if match else [])]


def _choose(files: Sequence[tuple[int, Path]]) -> EssayFiles:
    """Decides which of an essay's files count."""
    texts = [path for _, path in files if path.suffix.lower() == TEXT_SUFFIX]
    if texts:
        spare = tuple(path for _, path in files if path != texts[0])
        return EssayFiles(texts[0], (), spare, ())
    is_numbered = any(number for number, _ in files)
    by_number: dict[int, Path] = {}
    for number, path in files:
        if bool(number) == is_numbered:
            by_number.setdefault(number, path)
    pages = tuple(by_number[number] for number in sorted(by_number))
    spare = tuple(path for _, path in files if path not in pages)
    gaps = tuple(n for n in range(1, max(by_number)) if n not in by_number)
    return EssayFiles(None, pages, spare, gaps)
