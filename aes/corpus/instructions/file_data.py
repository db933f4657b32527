"""The data that one file or folder holds, of each format: the options of ``data`` and their keys.

Says what stands where; the reading is done beside this module.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from aes.corpus.base import SCHEMA
from aes.corpus.instructions.columns import (
    AlpacaColumns,
    CaptionColumns,
    ShareGptColumns,
    ShareGptTags,
)
from aes.corpus.instructions.conversation import (
    Conversation,
    answer_sharegpt,
    read_alpaca,
    read_sharegpt,
)
from aes.corpus.instructions.finding_files import find_files
from aes.corpus.instructions.making import MARKER, Wanted
from aes.corpus.instructions.reading import Source, read_samples
from aes.corpus.instructions.rows import RowError
from aes.corpus.instructions.spec import InstructionData, Sample


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class SourcedData(InstructionData):
    """Instruction data whose samples come from files of one format."""

    def files(self) -> tuple[Path, ...]:
        """See ``InstructionData``."""
        prompt = () if self.system_file is None else (self.system_file.expanduser(),)
        return (*self._source().files, *prompt)

    def samples(self, *, cache: Path) -> Iterator[Sample]:
        """See ``InstructionData``."""
        wanted = Wanted(system=self.system_prompt(), labels=self.labels, train_on=self.train_on)
        return read_samples(self._source(), wanted, cache=cache)

    def choice_seed(self) -> int | None:
        """See ``InstructionData``."""
        source = self._source()
        return None if source.num_chosen is None else source.seed

    def questions(self, path: Path, *, cache: Path) -> Iterator[Sample]:
        """The records of another file of the same format; none needs an answer, or keeps one.

        Args:
            path: As for ``data.path``; images lie in ``root``, or in the file's folder.
            cache: As for ``samples``.

        Raises:
            ValueError: If there is no such file, or it cannot be read any further.
        """
        stand_in = self.labels[0] if self.labels else "?"
        wanted = Wanted(system=self.system_prompt(), labels=self.labels, train_on="last")
        for sample in read_samples(self._source(path).answered(stand_in), wanted, cache=cache):
            example = sample.example
            yield replace(sample, example=example and replace(example, answer=()))

    @abstractmethod
    def _source(self, path: Path | None = None) -> Source:
        """The files, and how their records are understood.

        Args:
            path: Of other files than those of the data.
        """


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class FileData(SourcedData):
    """Samples of a file, or of a folder of files of one kind.

    Attributes:
        path: A .json, .jsonl, .parquet or .arrow file, a folder of such files, or a pattern as in
            ``DIR/train-*.parquet``.
    """

    path: Path

    def _root(self, files: tuple[Path, ...]) -> Path:
        return files[0].parent if self.root is None else self.root


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class AlpacaData(FileData):
    """Instructions with their answers.

    Attributes:
        columns: Where the parts of a sample stand.
    """

    columns: AlpacaColumns

    def _source(self, path: Path | None = None) -> Source:
        files = find_files(path or self.path)
        return alpaca_source(files, self._root(files), self.columns)


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class ShareGptData(FileData):
    """Conversations of several turns.

    Attributes:
        columns: Where the parts of a sample stand.
        tags: Names within a turn.
    """

    columns: ShareGptColumns
    tags: ShareGptTags

    def _source(self, path: Path | None = None) -> Source:
        files = find_files(path or self.path)
        return sharegpt_source(files, self._root(files), self.columns, self.tags)


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class CaptionData(FileData):
    """Images, each with the answer to one question that is asked of all.

    Attributes:
        columns: Where the parts of a sample stand.
        question: Stands below the image.
    """

    columns: CaptionColumns
    question: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _has_one_question(self) -> Self:
        if self.train_on == "all":
            raise ValueError(
                "train_on=all would do nothing here, where each image has one answer; leave it at "
                "last"
            )
        if MARKER in self.question:
            raise ValueError(f"question must not hold {MARKER}: the image stands above it")
        return self

    def _source(self, path: Path | None = None) -> Source:
        files, columns = find_files(path or self.path), self.columns
        return Source(
            files=files,
            root=self._root(files),
            convert=self._ask,
            columns=named(columns),
            required=(columns.image, columns.answer),
            with_answer=partial(_put, column=columns.answer),
            answer_column=columns.answer,
            id_column=columns.id,
        )

    def _ask(self, values: Mapping[str, Any]) -> Conversation:
        image, answer = values.get(self.columns.image), values.get(self.columns.answer)
        if image is None or image == []:
            raise RowError("missing_image", f"has no {self.columns.image}")
        if answer is None:
            raise RowError("no_answer", f"has no {self.columns.answer}")
        if not isinstance(answer, str):
            kind = type(answer).__name__
            raise RowError("malformed_sample", f"has a {kind} for text in {self.columns.answer}")
        images = tuple(image) if isinstance(image, list) else (image,)
        asked = MARKER * len(images) + self.question
        return Conversation("", (("user", asked), ("assistant", answer)), images)


def alpaca_source(files: tuple[Path, ...], root: Path, columns: AlpacaColumns) -> Source:
    """Files of instructions."""
    return Source(
        files=files,
        root=root,
        convert=partial(read_alpaca, columns=columns),
        columns=named(columns),
        required=tuple(filter(None, (columns.prompt, columns.response))),
        with_answer=partial(_put, column=columns.response),
        answer_column=columns.response,
    )


def sharegpt_source(
    files: tuple[Path, ...], root: Path, columns: ShareGptColumns, tags: ShareGptTags
) -> Source:
    """Files of conversations."""
    return Source(
        files=files,
        root=root,
        convert=partial(read_sharegpt, columns=columns, tags=tags),
        columns=named(columns),
        required=(columns.messages,),
        with_answer=partial(answer_sharegpt, columns=columns, tags=tags),
    )


def named(columns: AlpacaColumns | ShareGptColumns | CaptionColumns) -> frozenset[str]:
    """All columns that have a name."""
    return frozenset(filter(None, vars(columns).values()))


def _put(values: Mapping[str, Any], answer: str, *, column: str) -> Mapping[str, Any]:
    return {**values, column: answer}
