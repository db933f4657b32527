"""What is said of instruction data, and what comes of reading it: a stream of samples.

Knows no file format; the modules beside this one do. Nothing here holds more than a sample.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from aes.corpus.base import SCHEMA, DataSpec
from aes.corpus.instructions.rows import escape_halves
from aes.records import Example


@plain_dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with a sample.

    Attributes:
        code: Key of ``aes.corpus.problems.PROBLEMS``.
        message: What is wrong, in one sentence without the sample's text; halves of characters, as
            names may hold them, become escapes.
        file: File to open, likewise.
        line: 1-based; 0 where lines mean nothing.
    """

    code: str
    message: str
    file: str
    line: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", escape_halves(self.message))
        object.__setattr__(self, "file", escape_halves(self.file))


@plain_dataclass(frozen=True, kw_only=True)
class Sample:
    """One record as it was read.

    Attributes:
        number: Place among all records, from 1.
        id: Unique within the data.
        example: ``None`` where nothing can be made of the record.
        findings: What is wrong with it; the first sample also has what is noted of the data as a
            whole.
        keys: 16-byte digests of the conversation up to the last question, images included, and of
            each image: samples that share one stand on one side of every split. White space, case
            and width do not count, nor does the system prompt; questions or images that are merely
            alike share nothing.
        beginnings: The first of ``keys``, as it would be of a sample that ended at one of the
            earlier questions: such a sample stands on this one's side.
        blamed: Image file that is missing or broken, whose change may mend the sample.
        asked: 16-byte digest of prompt and images to the letter, white space around each text not
            counted: samples that share it ask the same.
        twin: Likewise, of the answer too: samples that share it are copies.
        file: Where it stands.
        line: 1-based line that it begins on; 0 in tables.
    """

    number: int
    id: str
    example: Example | None
    findings: tuple[Finding, ...] = ()
    keys: tuple[bytes, ...] = ()
    beginnings: tuple[bytes, ...] = ()
    blamed: Path | None = None
    asked: bytes = b""
    twin: bytes = b""
    file: str = ""
    line: int = 0


@dataclass(frozen=True, kw_only=True, config=SCHEMA)
class InstructionData(DataSpec):
    """Questions with the answers that a model should give, as free text or as one of some labels.

    Attributes:
        root: Folder that paths of images are relative to, and must not leave; ``None``: the folder
            of the file that names them.
        train_on: Which turns are learned: the ``last`` answer, or ``all`` of the assistant's.
        system: System prompt of samples that have none of their own; ``None``: they have none.
        system_file: A text file that holds it instead.
        labels: Texts of which every answer is one, for classification; empty: answers are free.
    """

    root: Path | None
    train_on: Literal["last", "all"]
    system: str | None
    system_file: Path | None
    labels: tuple[str, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.on_overlong == "shrink":
            raise ValueError(
                "on_overlong=shrink sets typed essays smaller and would do nothing here; choose "
                "drop or error"
            )
        if self.system is not None and self.system_file is not None:
            raise ValueError("system and system_file both give the system prompt; set one to null")
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise ValueError(f"labels holds {twice[0]!r} twice; name each label once")
        if any(not label or label != label.strip() for label in self.labels):
            raise ValueError("labels holds a text that is empty or has white space around it")
        return self

    def system_prompt(self) -> str:
        """System prompt of samples that have none of their own; empty: they have none.

        Raises:
            ValueError: If its file cannot be read or is empty.
        """
        if self.system_file is None:
            return self.system or ""
        path = self.system_file.expanduser()
        try:
            text = path.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"data.system_file {path} cannot be read as text in UTF-8: correct the path."
            ) from error
        if not text:
            raise ValueError(f"data.system_file {path} is empty: write the prompt, or set it null.")
        return text

    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """Files that decide the samples, images not counted: data has changed when these have.

        Raises:
            ValueError: If one is missing.
        """

    def choice_seed(self) -> int | None:
        """Seed that chooses which records become samples; ``None``: it does not matter."""
        return None

    @abstractmethod
    def samples(self, *, cache: Path) -> Iterator[Sample]:
        """All records in the order of the data, read as they are taken.

        Args:
            cache: Folder for tables in a form that can be mapped into memory.

        Raises:
            ValueError: If a file is missing, or cannot be read any further.
        """
