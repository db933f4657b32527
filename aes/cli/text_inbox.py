"""What is handed in to a run that learned from instruction data -> questions, one after the other.

Records of the format that it learned from, or images and texts about which one question is asked.
What cannot be asked has its reason instead, and the others go on. Wiring only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aes.cli.settings import Settings
from aes.corpus.essay_files import PAGE_SUFFIXES
from aes.corpus.instructions import InstructionData, Sample
from aes.corpus.instructions.file_data import CaptionData, SourcedData
from aes.corpus.submission_files import readable
from aes.corpus.submission_text import decode_text
from aes.page import image_bytes, num_pages
from aes.records import Example, Message, Page, PdfPage, TableImage

_TEXT_SUFFIX, _PDF_SUFFIX = ".txt", ".pdf"
_ASKS_NOTHING = "empty_question"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One thing that is asked.

    Attributes:
        id: Unique.
        example: ``None`` if there is an error.
        error: Why it cannot be answered, in a sentence; empty if it can.
        warnings: What was mended, in sentences.
        digest: Changes with what is asked; empty on error.
    """

    id: str
    example: Example | None = None
    error: str = ""
    warnings: tuple[str, ...] = ()
    digest: str = ""


def read_questions(
    settings: Settings, path: Path, *, question: str | None, max_pages: int
) -> Iterator[Asked]:
    """Everything that a file or folder holds, in its order.

    Args:
        path: A file or a folder.
        question: Asked about each image or text; ``None``: ``path`` holds records of the run's
            format, or images that its own question is asked about.
        max_pages: Most pages of a PDF.

    Raises:
        ValueError: If there is no such file or folder, nothing in it, or it cannot be read on.
    """
    data = settings.data
    assert isinstance(data, InstructionData)
    if not path.exists():
        raise ValueError(f"input {path} does not exist: correct the path.")
    files = _find_pictures(path)
    if question is None and isinstance(data, CaptionData) and files:
        question = data.question
    if question is not None:
        if not files:
            raise ValueError(
                f"input {path} holds no image, .pdf or .txt that a question could be about; choose "
                "another, or leave question= out if it holds records"
            )
        return (_ask_about(file, path, question, data, max_pages) for file in files)
    if not isinstance(data, SourcedData):
        raise ValueError(
            f"data={settings.choices['data']} says of no other file how it is read; add question= "
            "and give images"
        )
    return map(_of_record, data.questions(path, cache=settings.cache))


def _of_record(sample: Sample) -> Asked:
    refused = [found for found in sample.findings if found.code == _ASKS_NOTHING]
    if sample.example is None or refused:
        found = (refused or sample.findings)[0]
        place = f"{found.file}, line {found.line}" if found.line else found.file
        return Asked(id=sample.id, error=f"{place}: {found.message}")
    return Asked(
        id=sample.id,
        example=sample.example,
        warnings=tuple(found.message for found in sample.findings),
        digest=_digest(sample.example.messages),
    )


def _digest(messages: Sequence[Message]) -> str:
    """Of every text to the letter and every image to the byte, wherever the images lie."""
    digest = hashlib.sha256()
    for message in messages:
        digest.update(repr((message.role, [_identity(part) for part in message.parts])).encode())
    return digest.hexdigest()[:16]


def _identity(part: str | Page) -> str | bytes:
    if isinstance(part, str):
        return part
    assert isinstance(part, Path | TableImage), "records show images alone"
    return hashlib.sha256(image_bytes(part)).digest()


def _find_pictures(path: Path) -> list[Path]:
    """Images, PDFs and texts, in the order of their paths; hidden ones are somebody else's."""
    known = {*PAGE_SUFFIXES, _PDF_SUFFIX, _TEXT_SUFFIX}
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [
        file
        for file in files
        if file.is_file() and file.suffix.lower() in known and not file.name.startswith(".")
    ]


def _ask_about(
    file: Path, folder: Path, question: str, data: InstructionData, max_pages: int
) -> Asked:
    name = file.name if file == folder else file.relative_to(folder).as_posix()
    id_ = readable(name)
    try:
        shown = _shown(file, max_pages)
    except ValueError as error:
        return Asked(id=id_, error=f"{id_}: {error}")
    system = data.system_prompt()
    parts = (*shown, f"\n{question}") if isinstance(shown[0], str) else (*shown, question)
    messages = (
        *((Message("system", (system,)),) if system else ()),
        Message("user", parts),
    )
    status = file.stat()
    content = repr((messages, status.st_size, status.st_mtime_ns))
    return Asked(
        id=id_,
        example=Example(id=id_, messages=messages, kind="text", choices=data.labels),
        digest=hashlib.sha256(content.encode()).hexdigest()[:16],
    )


def _shown(file: Path, max_pages: int) -> tuple[str | Page, ...]:
    """What a file shows: its text, or its pages, which are not opened yet."""
    suffix = file.suffix.lower()
    if suffix == _TEXT_SUFFIX:
        text, _ = decode_text(file.read_bytes())
        if not text.strip():
            raise ValueError("it holds no text.")
        return (text,)
    if suffix != _PDF_SUFFIX:
        return (file,)
    num = num_pages(file)
    if num > max_pages:
        raise ValueError(f"it has {num} pages, more than max_pages={max_pages}.")
    return tuple(PdfPage(file, number) for number in range(1, num + 1))
