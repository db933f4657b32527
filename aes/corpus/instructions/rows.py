"""What every reader gives: the records of a file one by one, before anybody knows what they mean.

``RowError`` says why a record cannot become a sample; who makes samples turns it into a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MOST_NAMED = 8
_LONGEST_NAME = 40


class RowError(Exception):
    """Why a record cannot become a sample.

    Args:
        code: Key of ``aes.corpus.problems.PROBLEMS``.
        message: What is wrong, as the end of a sentence that begins with the sample's number.
        path: Image file whose change may mend it; ``None``: it takes another record.
    """

    def __init__(self, code: str, message: str, *, path: Path | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.path = path


@dataclass(frozen=True)
class Row:
    """One record of a file.

    Attributes:
        file: Where it stands.
        line: 1-based line that it begins on; 0 in tables.
        values: By column; images of tables are ``TableImage``.
        refusal: Why there are no values; ``None`` if there are.
    """

    file: Path
    line: int
    values: Mapping[str, Any]
    refusal: RowError | None = None


def as_row(file: Path, line: int, value: object) -> Row:
    """A record as JSON gives it."""
    if isinstance(value, dict):
        return Row(file, line, value)
    kind = type(value).__name__
    return Row(file, line, {}, RowError("malformed_sample", f"is a {kind} instead of an object"))


def escape_halves(text: str) -> str:
    """The text, with escapes for halves of characters, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def name_columns(columns: Iterable[object]) -> str:
    """Names of columns for a message, the first few of them."""
    names = [str(column)[:_LONGEST_NAME] for column in columns]
    more = " and more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more if names else "nothing"
