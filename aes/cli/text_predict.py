"""``predict.py`` with a run that learned from instruction data: answers in text. Wiring only."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from aes.cli.engines import needs_weights, open_engine
from aes.cli.inbox import OpenedPages, require_room
from aes.cli.requests import PredictionRequest, plain
from aes.cli.samples import make_processor
from aes.cli.text_inbox import Asked, read_questions
from aes.corpus.submission_essays import hide_folder
from aes.inference import VllmSpec
from aes.model.trained import trained_digest
from aes.records import Answer, Example, PageLayout
from aes.report.predictions import (
    LINES_SUFFIX,
    PredictionWriter,
    Provenance,
    journal_path,
    require_output,
)

if TYPE_CHECKING:
    from aes.data.processor import Processor
    from aes.inference.engine import Engine

_ERRORS_SHOWN = 5


def predict_text(request: PredictionRequest) -> int:
    """Answer what was handed in, in a file or on the terminal.

    Returns:
        Exit status 0, also where something could not be answered: its line says why.

    Raises:
        ValueError: For every mistake of the user's that concerns all of it.
    """
    hardware, question = request.run.settings.hardware, request.values.question
    if hardware.num_ranks > 1:
        raise ValueError(
            f"predict.py answers on one device, but hardware has {hardware.num_ranks}; add "
            "hardware.devices=1 hardware.num_nodes=1"
        )
    if question is not None and not question.strip():
        raise ValueError("question: must be a text, got nothing")
    asked = read_questions(
        request.run.settings,
        request.values.input.expanduser(),
        question=question,
        max_pages=request.values.max_pages,
    )
    if request.values.output is None:
        _stream(request, list(asked))
    else:
        _write(request, request.values.output.expanduser(), list(asked))
    return 0


class _Checker:
    """Finds out whether a question can be put to the model, its images open."""

    def __init__(self, request: PredictionRequest) -> None:
        settings = request.run.settings
        self.settings = settings
        self.pages = OpenedPages(settings.page)
        self.processor: Processor = make_processor(settings, weights=needs_weights(settings))

    def check(self, example: Example) -> None:
        """Refuse what the model cannot read.

        Raises:
            ValueError: If an image cannot be opened, or the question is too long.
        """
        if example.pages and self.settings.model.reads_text_alone:
            raise ValueError(
                f"it shows an image, but model={self.settings.choices['model']} reads text alone: "
                "ask without images."
            )
        self.pages.forget()
        for page in example.pages:
            assert not isinstance(page, PageLayout), "what is handed in is there as it is"
            try:
                self.pages.open(page)
            except ValueError as error:
                file = page if isinstance(page, Path) else page.path
                raise ValueError(hide_folder(error, file)) from None
        sizes = [self.pages.size(page) for page in example.pages]
        encoded = self.processor.encode(replace(example, answer=()), sizes)
        require_room(len(encoded.input_ids), self.settings.data.max_tokens)

    def open_engine(self, request: PredictionRequest) -> Engine:
        """The run's engine, which opens images as they were opened here."""
        return open_engine(request.run, processor=self.processor, renderer=self.pages)


def _stream(request: PredictionRequest, asked: Sequence[Asked]) -> None:
    """The answer to one question, as it is written."""
    if len(asked) > 1:
        raise ValueError(
            f"question= without output= is about one file, but {request.values.input} holds "
            f"{len(asked)}; choose one, or add output=FILE.jsonl"
        )
    (one,) = asked
    checker = _Checker(request)
    if one.example is None:
        raise ValueError(one.error)
    try:
        checker.check(one.example)
    except ValueError as reason:
        raise ValueError(f"{one.id} with the question: {reason}") from None
    engine = checker.open_engine(request)
    with _adapter(request, engine):
        for piece in engine.stream(one.example):
            sys.stdout.write(piece)
            sys.stdout.flush()
    sys.stdout.write("\n")


def _write(request: PredictionRequest, output: Path, asked: Sequence[Asked]) -> None:
    """Answers to what was not answered before, a line each as it comes."""
    if output.suffix.lower() != LINES_SUFFIX:
        raise ValueError(f"output {output} must end in {LINES_SUFFIX}: answers are lines of text.")
    if not asked:
        raise ValueError(f"input {request.values.input} holds nothing to answer: choose another.")
    require_output(output, input=request.values.input.expanduser())
    digests = {one.id: one.digest for one in asked}
    writer = PredictionWriter(
        journal_path(output), provenance=_provenance(request), digests=digests
    )
    left = [one for one in asked if one.id not in writer.done]
    errors: list[str] = []
    with writer:
        _answer(request, left, writer, errors)
        writer.settle([one.id for one in asked])
    _print_summary(output, errors, num_left=len(left), num_done=len(asked) - len(left))


def _answer(
    request: PredictionRequest, asked: Sequence[Asked], writer: PredictionWriter, errors: list[str]
) -> None:
    """Write down each answer, or why there is none; what goes wrong is added to ``errors``."""

    def refuse(one: Asked, error: str) -> None:
        errors.append(error)
        writer.write_answer(Answer(id=one.id, text="", error=error), warnings=one.warnings)

    def examples() -> Iterator[Example]:
        """What can be asked; each is opened by the Engine before the next is taken."""
        for one in asked:
            try:
                if one.example is None:
                    raise ValueError(one.error)
                checker.check(one.example)
            except ValueError as reason:
                refuse(one, one.error or f"{one.id}: {reason}")
                continue
            yield one.example

    checker, known = _Checker(request), {one.id: one for one in asked}
    found = examples()
    first = next(found, None)
    if first is None:
        return
    engine, started = checker.open_engine(request), time.perf_counter()
    with _adapter(request, engine):
        answers = engine.answer(chain([first], found), progress="answering", total=len(asked))
        for answer in answers:
            now = time.perf_counter()
            if answer.error:
                errors.append(f"{answer.id}: {answer.error}")
            warnings = known[answer.id].warnings
            writer.write_answer(answer, seconds=now - started, warnings=warnings)
            started = now


def _adapter(request: PredictionRequest, engine: Engine) -> AbstractContextManager[None]:
    return engine.without_adapter() if request.values.base else nullcontext()


def _provenance(request: PredictionRequest) -> Provenance:
    """What makes the answers; what is asked, its system prompt included, is in their digests."""
    settings, values = request.run.settings, request.values
    decoding = plain(settings.decoding)
    del decoding["batch_size"]  # changes no answer
    depends = {
        "labels": list(getattr(settings.data, "labels", ())),
        "page": plain(settings.page),
        "decoding": decoding,
        "precision": settings.hardware.precision,
        "max_tokens": settings.data.max_tokens,
    }
    if isinstance(settings.engine, VllmSpec):
        depends["engine"] = "vllm"
    content = json.dumps(depends, sort_keys=True, ensure_ascii=False)
    return Provenance(
        model=settings.model.path or settings.choices["model"],
        adapter="" if values.base else trained_digest(request.run.path),
        settings=hashlib.sha256(content.encode()).hexdigest()[:12],
    )


def _print_summary(output: Path, errors: Sequence[str], *, num_left: int, num_done: int) -> None:
    console = Console(stderr=True)
    kept = f", {num_done} were answered before" if num_done else ""
    told = f"{num_left - len(errors)} answered, {len(errors)} could not be{kept}: {output}"
    console.print(Text(told), soft_wrap=True)
    for error in errors[:_ERRORS_SHOWN]:
        console.print(Text(f"  {error}"), soft_wrap=True)
    if len(errors) > _ERRORS_SHOWN:
        console.print(f"  ... and {len(errors) - _ERRORS_SHOWN} more, each in its line")
