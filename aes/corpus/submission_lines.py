"""A line of a .jsonl file -> the fields of an essay, checked one by one.

``id`` is required, and either ``text`` or ``pages`` (paths within the file's folder). ``title``
may be left out, then it is looked for on the first line of the text; an empty one says that there
is none. ``topic`` and ``wrong_characters`` as ``Essay`` has them. Other keys are ignored with a
warning, for one of them may be a misspelt title; gold scores too, since grading needs none. No
message quotes a value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 4 * 1024**2
"""Longer lines hold no essay, and are not read."""

_MAX_ID_CHARS = 200
_MAX_NAMED, _MAX_KEY_CHARS = 5, 40


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, numbered from 1; None for one over ``MAX_LINE_BYTES``."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            is_whole = len(line) <= MAX_LINE_BYTES
            rest = line
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)
            if line.strip():
                yield number, line if is_whole else None


def parse_line(raw: bytes | None) -> dict[str, Any]:
    """The object on a line.

    Raises:
        ValueError: If it is too long or no JSON object.
    """
    if raw is None:
        raise ValueError(f"it is over {MAX_LINE_BYTES // 1024**2} MiB long: split or remove it.")
    try:
        line = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON in UTF-8: write one object on each line.") from error
    if not isinstance(line, dict):
        raise ValueError("it is not a JSON object: write one object on each line.")
    return {key: value for key, value in line.items() if value is not None}


def read_id(line: dict[str, Any]) -> str:
    """The essay's id.

    Raises:
        ValueError: If there is none that can be used.
    """
    if not _is_id(line.get("id")):
        raise ValueError(
            f'its "id" is no text of 1 to {_MAX_ID_CHARS} printable characters and no whole '
            "number: give it one."
        )
    return str(line["id"]).strip()


def check_fields(line: dict[str, Any]) -> tuple[str, ...]:
    """Refuses values of a wrong type and returns warnings about other keys.

    Raises:
        ValueError: If a value is of a wrong type, or text and pages are both there or neither.
    """
    for key, (is_right, meaning) in _FIELDS.items():
        if key in line and not is_right(line[key]):
            raise ValueError(f'its "{key}" must be {meaning}: correct it.')
    if ("text" in line) == ("pages" in line):
        state = 'both "text" and' if "text" in line else 'neither "text" nor'
        raise ValueError(f'it has {state} "pages": give one of them.')
    unknown = sorted(line.keys() - _FIELDS.keys() - {"id"})
    if not unknown:
        return ()
    names = ", ".join(_shown(key) for key in unknown[:_MAX_NAMED])
    more = f" and {len(unknown) - _MAX_NAMED} more" if len(unknown) > _MAX_NAMED else ""
    return (f"Keys that mean nothing here were ignored: {names}{more}.",)


def find_pages(names: list[str], folder: Path) -> list[Path]:
    """The files that ``pages`` names; whether they exist is seen when they are opened.

    Raises:
        ValueError: If one lies outside the folder.
    """
    root = folder.resolve()
    paths = []
    for number, name in enumerate(names, start=1):
        try:
            path = (root / name).resolve()
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(f'"pages" number {number} is no path: correct it.') from error
        # A file of essays may come from anywhere, and must not make other files readable.
        if not path.is_relative_to(root):
            raise ValueError(
                f'"pages" number {number} lies outside the folder of the file: move it there.'
            )
        paths.append(path)
    return paths


def _shown(key: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in key[:_MAX_KEY_CHARS])


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value.strip()) <= _MAX_ID_CHARS and value.strip().isprintable()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)


def _is_characters(value: Any) -> bool:
    return _is_texts(value) and all(len(v) == 1 and v.isprintable() for v in value)


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "title": (_is_text, "a text"),
    "text": (_is_text, "a text"),
    "topic": (_is_text, "a text"),
    "pages": (lambda v: _is_texts(v) and bool(v), "a list of one or more paths"),
    "wrong_characters": (_is_characters, "a list of single characters"),
}
