"""Files of samples -> a stream of Samples, whatever the format: the numbers, the ids, the order.

Holds one record at a time, and of all records what tells that an id came before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

from aes.corpus.instructions.conversation import Conversation
from aes.corpus.instructions.json_file import read_json
from aes.corpus.instructions.making import Place, Wanted, make_sample
from aes.corpus.instructions.pictures import PictureFinder
from aes.corpus.instructions.rows import Row, RowError, escape_halves, name_columns
from aes.corpus.instructions.spec import Finding, Sample
from aes.corpus.instructions.tables import TABLE_SUFFIXES, read_tables

_LONGEST_ID = 200


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files of one format, and how their records are understood.

    Attributes:
        files: In the order in which they are read, all of one kind.
        root: Folder that paths of images are relative to, and must not leave.
        convert: Makes a conversation of a record; raises RowError.
        columns: Those that ``convert`` looks at.
        required: Those without which a table has nothing to read.
        with_answer: Puts an answer into a record, in the place of its own if it has one.
        answer_column: Holds the answer and nothing else; ``None``: there is no such column.
        id_column: Holds each sample's id; ``None``: its number is its id.
        num_chosen: Samples to read, chosen at random; ``None``: all.
        seed: Of that choice.
        notes: What is noted of the data as a whole.
    """

    files: tuple[Path, ...]
    root: Path
    convert: Callable[[Mapping[str, Any]], Conversation]
    columns: frozenset[str]
    required: tuple[str, ...]
    with_answer: Callable[[Mapping[str, Any], str], Mapping[str, Any]]
    answer_column: str | None = None
    id_column: str | None = None
    num_chosen: int | None = None
    seed: int = 0
    notes: tuple[Finding, ...] = ()

    def answered(self, answer: str) -> Source:
        """The same, with this answer in every record; so none needs one of its own."""
        return replace(
            self,
            convert=lambda values: self.convert(self.with_answer(values, answer)),
            required=tuple(name for name in self.required if name != self.answer_column),
            num_chosen=None,
            notes=(),
        )


def read_samples(source: Source, wanted: Wanted, *, cache: Path) -> Iterator[Sample]:
    """All samples of a source, or those chosen, as they are taken.

    Raises:
        ValueError: If the root or a file is missing, or a file cannot be read any further.
    """
    if not source.root.expanduser().is_dir():
        raise ValueError(f"data.root {source.root} is no folder that exists: correct it.")
    pictures, ids = PictureFinder(source.root), _Ids(source.id_column)
    is_chosen, notes = _draw(source, cache)
    looks_for_unused = True
    for number, row in enumerate(_rows(source, cache), start=1):
        if not next(is_chosen):
            continue
        id_, is_repeated = ids.name(number, row)
        place = Place(number, id_, escape_halves(row.file.name), row.line)
        sample = _read_row(row, place, source, wanted, pictures)
        findings, notes = notes, ()
        if is_repeated:
            findings += (place.finding("repeated_id", "has the id of an earlier one"),)
        if looks_for_unused and sample.example is not None:
            findings += _unused_columns(source, row, place)
            looks_for_unused = False
        yield replace(sample, findings=sample.findings + findings) if findings else sample


def _read_row(
    row: Row, place: Place, source: Source, wanted: Wanted, pictures: PictureFinder
) -> Sample:
    try:
        if row.refusal is not None:
            raise row.refusal
        conversation = source.convert(row.values)
    except RowError as refusal:
        return place.refused(refusal)
    return make_sample(conversation, place, wanted=wanted, pictures=pictures)


def _rows(source: Source, cache: Path) -> Iterator[Row]:
    if source.files[0].suffix in TABLE_SUFFIXES:
        return read_tables(
            source.files, columns=source.columns, required=source.required, cache=cache
        )
    return chain.from_iterable(map(read_json, source.files))


class _Ids:
    """Gives each sample an id of its own."""

    def __init__(self, column: str | None) -> None:
        self._column = column
        self._given: set[str] = set()

    def name(self, number: int, row: Row) -> tuple[str, bool]:
        """The id, and whether another sample had the one that stands there."""
        if self._column is None:  # numbers alone never meet
            return str(number), False
        value = row.values.get(self._column)
        has_own = isinstance(value, str | int) and value != ""
        wanted = escape_halves(str(value))[:_LONGEST_ID] if has_own else str(number)
        others = (f"{wanted}#{n}" for n in count(number))
        id_ = next(id_ for id_ in chain([wanted], others) if id_ not in self._given)
        self._given.add(id_)
        return id_, has_own and id_ != wanted


def _draw(source: Source, cache: Path) -> tuple[Iterator[bool], tuple[Finding, ...]]:
    """Which records are read, each decided as its turn comes; and what to say of the others.

    Source: Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S.
    """
    num = source.num_chosen
    if num is None:
        return repeat(True), source.notes
    total = sum(1 for _ in _rows(source, cache))
    if num == total:
        return repeat(True), source.notes
    what = f"num_samples asks for {num} samples and there are {total}"
    does = "all are read once" if num > total else f"{num} are chosen at random"
    note = Finding(code="not_chosen", message=f"{what}: {does}.", file=source.files[0].name)
    return _draw_each(num, total, random.Random(source.seed)), (*source.notes, note)


def _draw_each(num: int, total: int, rng: random.Random) -> Iterator[bool]:
    for left in range(total, 0, -1):
        is_taken = rng.random() * left < num
        num -= is_taken
        yield is_taken


def _unused_columns(source: Source, row: Row, place: Place) -> tuple[Finding, ...]:
    """A note on what a record holds besides; of a table only what is wanted is read."""
    unused = [name for name, value in row.values.items() if value and name not in source.columns]
    if not unused:
        return ()
    return (place.finding("unused_setting", f"has more than is read: {name_columns(unused)}"),)
