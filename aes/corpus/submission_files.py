"""A file or folder handed in for grading -> bundles: the files of each essay, and its id.

An essay is a file, or several images ``<id>-1.png``, ``<id>-2.png`` (``aes.corpus.essay_files``).
Folders are searched through. The id is the path within the folder without its suffix; where that
would be the id of two files of one folder, each keeps its suffix. Nothing is left out in silence
but what systems leave behind: hidden files, Thumbs.db, lock files. Opens no file.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aes.corpus.essay_files import PAGE_SUFFIXES, EssayFiles, group_files, possible_ids

_LEFT_BEHIND = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_HIDDEN_PREFIXES = (".", "~$")
_MAX_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The files of one essay, or one file of many.

    Attributes:
        id: Path within the folder that was handed in, without suffix.
        paths: One file, or images in reading order.
        place: The first of them, as messages name it.
        error: Why they cannot be an essay; empty if nothing in their names speaks against it.
    """

    id: str
    paths: tuple[Path, ...]
    place: str
    error: str = ""


def find_bundles(path: Path) -> list[Bundle]:
    """What a file or folder holds, in the order of its paths.

    Raises:
        ValueError: If there is no such file or folder, or the folder is empty.
    """
    if path.is_dir():
        bundles = sorted(_search(path), key=lambda bundle: (bundle.place, bundle.id))
        if not bundles:
            raise ValueError(f"input {path} holds no files: choose another folder.")
        return bundles
    if not path.exists():
        raise ValueError(f"input {path} does not exist: correct the path.")
    return [Bundle(id=readable(path.stem), paths=(path,), place=readable(path.name))]


def readable(name: str) -> str:
    """A name as text that every encoding takes.

    Names that are no UTF-8 are read as GB18030, as old archives have them; control characters
    become question marks.
    """
    raw = name.encode("utf-8", "surrogateescape")
    for encoding in ("utf-8", "gb18030"):
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            text = raw.decode("utf-8", "backslashreplace")
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)


def _search(root: Path) -> Iterator[Bundle]:
    closed: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=closed.append):
        folders[:] = filter(_is_meant, folders)
        within = Path(folder).relative_to(root)
        paths = [Path(folder) / name for name in sorted(filter(_is_meant, names))]
        yield from _bundle(paths, within)
    for error in closed:
        place = readable(str(Path(error.filename).relative_to(root)))
        reason = f"the folder {place} cannot be opened ({error.strerror})"
        yield Bundle(id=place, paths=(), place=place, error=f"{reason}: change its permissions.")


def _is_meant(name: str) -> bool:
    return not name.startswith(_HIDDEN_PREFIXES) and name.lower() not in _LEFT_BEHIND


def _bundle(paths: Sequence[Path], within: Path) -> Iterator[Bundle]:
    """The bundles of one folder."""
    numbered = [path for path in paths if _essay_of(path) != path.stem]
    groups, _ = group_files(numbered, {_essay_of(path) for path in numbered})
    single = [path for path in paths if path not in set(numbered)]
    names = Counter([*groups, *(path.stem for path in single)])
    for path in single:
        name = path.stem if names[path.stem] == 1 else path.name
        place = readable(str(within / path.name))
        yield Bundle(id=readable(str(within / name)), paths=(path,), place=place)
    for name, files in groups.items():
        yield Bundle(
            id=readable(str(within / name)),
            paths=files.pages,
            place=readable(str(within / files.first.name)),
            error=_why_incomplete(files),
        )


def _essay_of(path: Path) -> str:
    """The essay's name: that of a numbered page without its number."""
    if path.suffix.lower() not in PAGE_SUFFIXES:
        return path.stem
    return min(possible_ids([path]), key=len)


def _why_incomplete(files: EssayFiles) -> str:
    first = readable(files.first.name)
    if files.spare:
        names = ", ".join(readable(path.name) for path in files.spare[:_MAX_NAMED])
        return f"{first} has other files for its pages too ({names}): keep one a page."
    if files.gaps:
        numbers = ", ".join(map(str, files.gaps[:_MAX_NAMED]))
        return f"{first} is a numbered page, but page {numbers} is missing: add it or rename."
    return ""
