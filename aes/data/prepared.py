"""Tokenised samples as they lie on disk: rows of a table, read when they are wanted.

Knows what was left out for its length; knows neither essays nor how rows are made.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from aes.data.processor import Encoded
from aes.records import Example


def column(rows: Any, name: str) -> list[Any]:
    """A column of a ``datasets.Dataset``, read at once and not row by row."""
    table = rows.select_columns([name]).with_format("arrow")[:]
    values: list[Any] = table.column(name).to_pylist()
    return values


@dataclass(frozen=True)
class Prepared:
    """The tokenised samples of one split and what was done to make them fit.

    Attributes:
        rows: A ``datasets.Dataset``; columns as ``prepare_essay`` names them.
        overlong: Ids of samples over the limit and their tokens at full size.
        shrunk: Those of them that were set smaller, with the type size used in px.
        dropped: Those that were left out.
    """

    rows: Any
    overlong: dict[str, int]
    shrunk: dict[str, int]
    dropped: tuple[str, ...]

    def examples(self) -> StoredExamples:
        """The samples as Examples, of which none is held in memory."""
        return StoredExamples(self.rows)

    def column(self, name: str) -> list[Any]:
        """A column of numbers or of short texts."""
        return column(self.rows, name)


class StoredExamples(Sequence[Example]):
    """The Examples of rows, each read when it is taken.

    Args:
        rows: A ``datasets.Dataset`` with a column ``example``.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows.select_columns(["example"])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> StoredExamples: ...
    def __getitem__(self, place: int | slice) -> Example | StoredExamples:
        if isinstance(place, slice):
            return StoredExamples(self._rows.select(range(*place.indices(len(self)))))
        example: Example = pickle.loads(self._rows[place]["example"])
        return example


def encoded_row(row: dict[str, Any]) -> Encoded:
    """The tokens in a row."""
    return Encoded(
        input_ids=row["input_ids"],
        num_prompt=row["num_prompt"],
        steps=row["steps"],
        grids=[(h, w) for h, w in row["grids"]],
        num_image_tokens=row["num_image_tokens"],
        turns=[(start, end) for start, end in row["turns"]],
    )


def apply_policy(rows: Any, *, max_tokens: int, drop: bool) -> Prepared:
    """Rows of which those over the limit are dropped, or stay in; either way they are told."""
    ids, full_size, lengths, glyph_px = (
        column(rows, name) for name in ("id", "num_tokens_full_size", "num_tokens", "glyph_px")
    )
    full = dict(zip(ids, full_size, strict=True))
    now = dict(zip(ids, lengths, strict=True))
    glyphs = dict(zip(ids, glyph_px, strict=True))
    over = {name: length for name, length in full.items() if length > max_tokens}
    still_over = [name for name in over if now[name] > max_tokens]
    dropped = tuple(still_over) if drop else ()
    if dropped:
        keep = [i for i, n in enumerate(lengths) if n <= max_tokens]
        rows = rows.select(keep)
    return Prepared(
        rows=rows,
        overlong=over,
        shrunk={name: glyphs[name] for name in over if name not in still_over},
        dropped=dropped,
    )
