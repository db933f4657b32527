"""Turns a file of JSON into records, one after the other, whatever its size.

An array ``[{...}, ...]`` is read through a window that moves over the file: Python's own decoder
tells where a value ends, so a record is decoded in C, and no more than one and a piece of the file
is in memory. Readers that report single events (ijson) need a dependency and make the same records
from them in Python. Which of the two a file holds, an array or an object a line, its first
character tells, not its name.

A line that is broken costs one record. An array that is broken cannot be read on, and is refused.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO

from aes.corpus.instructions.rows import Row, RowError, as_row

MAX_RECORD_CHARS = 1 << 24
"""A longer record is taken for a broken file."""

_MAX_LINE_BYTES = 4 * MAX_RECORD_CHARS
_CHUNK_BYTES = 1 << 20
_LONGEST_TOKEN = 16
"""Of JSON's words and escapes, such as ``-Infinity``: what may be cut by the window's end."""

_MOST_BROKEN_LINES = 20
_SPACE = re.compile(r"[ \t\r\n]*")
_ODD = "a number too long, or brackets nested too deeply"
_BOM = b"\xef\xbb\xbf"


def read_json(path: Path) -> Iterator[Row]:
    """The records of an array, or of lines that hold one each.

    Raises:
        ValueError: If the file is empty or neither of the two, or an array is broken.
    """
    with path.open("rb") as file:
        first = file.read(4096).removeprefix(_BOM).lstrip()[:1]
    if first == b"[":
        return _read_array(path)
    if first == b"{":
        return _read_lines(path)
    if not first:
        raise ValueError(f"{path} is empty: choose a file with samples.")
    raise ValueError(
        f"{path}, line 1, column 1: neither an array of samples nor an object a line: save it as "
        "JSON in UTF-8."
    )


def read_object(path: Path) -> dict[str, Any]:
    """A small file that holds one object.

    Raises:
        ValueError: If it is missing, broken, or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): correct the path.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, byte {error.start + 1}: not UTF-8; save it in UTF-8.") from error
    except JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path}, {place}: not valid JSON ({error.msg}); mend it.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object: choose another file.")
    return value


def _read_lines(path: Path) -> Iterator[Row]:
    num_broken = num_good = 0
    with path.open("rb") as file:
        for line, raw in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), start=1):
            if len(raw) == _MAX_LINE_BYTES:
                raise ValueError(f"{path}, line {line} is too long for a sample: mend it there.")
            if not raw.strip():
                continue
            row = _read_line(path, line, raw.removeprefix(_BOM) if line == 1 else raw)
            num_broken += row.refusal is not None and row.refusal.code == "broken_json"
            num_good += row.refusal is None
            if num_broken == _MOST_BROKEN_LINES and not num_good:
                break
            yield row
    if num_broken and not num_good:
        raise ValueError(
            f"{path}: none of its first {num_broken} lines holds an object: write one object a "
            "line, or an array of objects in square brackets."
        )


def _read_line(path: Path, line: int, raw: bytes) -> Row:
    try:
        return as_row(path, line, json.loads(raw.decode("utf-8")))
    except UnicodeDecodeError as error:
        column, what = error.start + 1, "not UTF-8"
    except JSONDecodeError as error:
        column, what = error.pos + 1, error.msg
    except (ValueError, RecursionError):
        column, what = 1, _ODD
    why = f"is not valid JSON at line {line}, column {column} ({what})"
    return Row(path, line, {}, RowError("broken_json", why))


def _read_array(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        window = _Window(file, path)
        window.skip("[")
        if window.next_char() == "]":
            raise ValueError(f"{path} holds an empty array: choose a file with samples.")
        while True:
            window.next_char()
            line = window.line
            yield as_row(path, line, window.take_value())
            after = window.next_char()
            if after != ",":
                break
            window.skip(",")
        if not after:
            raise ValueError(
                f"{path}, line {window.line}: ends within its array, so it was cut short: get the "
                "whole file."
            )
        if after != "]":
            raise window.broken("Expecting ',' delimiter")
        window.skip("]")
        if window.next_char():
            raise window.broken("Extra data")


class _Window:
    """A piece of a text file, and where in the file it stands."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._decoder = json.JSONDecoder()
        self._text, self._at = "", 0
        self._counted, self._line, self._line_start = 0, 1, 0

    @property
    def line(self) -> int:
        """1-based line of the next character."""
        self._count(self._at)
        return self._line

    def next_char(self) -> str:
        """The next character but white space, not taken; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def skip(self, char: str) -> None:
        """Take one character that is known to come next."""
        assert self.next_char() == char
        self._at += 1

    def take_value(self) -> Any:
        """Take the value that begins here."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except JSONDecodeError as error:
                if self._may_be_cut(error) and self._read_on():
                    continue
                raise self.broken(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self.broken(_ODD) from error
            if end == len(self._text) and self._read_on():  # a number may go on
                continue
            self._at = end
            return value

    def broken(self, reason: str, at: int | None = None) -> ValueError:
        """What to raise: where the file is broken, and why."""
        at = min(self._at if at is None else at, len(self._text))
        self._count(at)
        return ValueError(
            f"{self._path}, line {self._line}, column {at - self._line_start + 1}: not valid JSON "
            f"({reason}): mend it there."
        )

    def _may_be_cut(self, error: JSONDecodeError) -> bool:
        """Whether the value may be whole in the file, and only the window ends within it."""
        if len(self._text) - self._at > MAX_RECORD_CHARS:
            return False
        at_end = error.pos >= len(self._text) - _LONGEST_TOKEN
        return at_end or error.msg.startswith("Unterminated string")

    def _read_on(self) -> bool:
        """Move the window's start up to here and its end further on; False at the file's end."""
        # As much again as there is, so that a long record is not decoded in many small steps.
        more = self._read(max(_CHUNK_BYTES, len(self._text) - self._at))
        if not more:
            return False
        self._count(self._at)
        self._text = self._text[self._at :] + more
        self._line_start -= self._at
        self._counted = self._at = 0
        return True

    def _read(self, num_bytes: int) -> str:
        text = ""
        while not text and (raw := self._file.read(num_bytes)):
            text = self._decode(raw)
        return text or self._decode(b"", final=True)

    def _decode(self, raw: bytes, *, final: bool = False) -> str:
        try:
            return self._utf8.decode(raw, final)
        except UnicodeDecodeError as error:
            self._count(len(self._text))
            line = self._line + error.object[: error.start].count(b"\n")
            raise ValueError(
                f"{self._path}, line {line}: not UTF-8; save the file in UTF-8."
            ) from error

    def _count(self, at: int) -> None:
        """Count lines up to a place in the window."""
        if at <= self._counted:
            return
        self._line += self._text.count("\n", self._counted, at)
        last = self._text.rfind("\n", self._counted, at)
        if last >= 0:
            self._line_start = last + 1
        self._counted = at
