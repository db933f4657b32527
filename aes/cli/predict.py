"""``python predict.py``: grades for essays without gold scores, or an answer. Wiring only."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from aes.cli.grading import open_grader
from aes.cli.inbox import Inbox, OpenedPages, require_room
from aes.cli.requests import PredictionRequest, plain
from aes.cli.samples import make_builder, make_processor
from aes.corpus.submissions import Submission, check_submission, read_submissions
from aes.grading.calibration_file import CALIBRATION_FILE, load_calibration
from aes.model.trained import read_grading_facts, trained_digest
from aes.page.pdf import num_pages
from aes.report.predictions import (
    LINES_SUFFIX,
    PredictionWriter,
    Provenance,
    journal_path,
    read_predictions,
    require_output,
)

if TYPE_CHECKING:
    from aes.grading import Grader
    from aes.grading.calibration import Calibration

_ERRORS_SHOWN = 5


def run(request: PredictionRequest) -> int:
    """Grade what was handed in, or answer a question about it.

    Returns:
        Exit status 0, also where some essays could not be graded: their lines say why.

    Raises:
        ValueError: For every mistake of the user's that concerns all essays.
    """
    values = request.values
    path = values.input.expanduser()
    calibration = _calibration(request)
    submissions = read_submissions(
        path, num_pages=num_pages, max_pages=values.max_pages, max_chars=values.max_chars
    )
    if values.output is None:
        _ask(request, submissions)
    else:
        require_output(values.output.expanduser(), input=path)
        _grade(request, submissions, calibration)
    return 0


def _calibration(request: PredictionRequest) -> Calibration | None:
    spec, one = request.calibration, request.run
    if spec.method == "none":
        return None
    if request.values.base:
        raise ValueError(
            "base=true grades without the adapter, for which the calibration was not made; leave "
            "one of them out"
        )
    path = one.path / CALIBRATION_FILE if spec.path is None else spec.path.expanduser()
    digest = trained_digest(one.path)
    calibration = load_calibration(path, one.settings.rubric, spec.method, adapter_digest=digest)
    if not calibration.curves:
        reason = next(iter(calibration.unchanged.values()), "there is no map in it")
        raise ValueError(
            f"{path} would change no grade ({reason}); leave calibration={spec.method} out, or "
            "evaluate a part with more essays"
        )
    return calibration


def _ask(request: PredictionRequest, submissions: list[Submission]) -> None:
    """Stream the answer to a question about one essay to the terminal."""
    question = request.values.question
    assert question is not None
    if not question.strip():
        raise ValueError("question: must be a text, got nothing")
    for key, is_set in (
        ("calibration", request.calibration.method != "none"),
        ("feedback", request.values.feedback is not None),
    ):
        if is_set:
            raise ValueError(f"{key} has no effect on the answer to question=; leave it out")
    if len(submissions) > 1:
        raise ValueError(
            f"question= is about one essay, but {request.values.input} holds {len(submissions)}; "
            "choose one of its files"
        )
    builder = make_builder(request.run.settings)
    submission = check_submission(submissions[0], builder.renderer)
    if submission.essay is None:
        raise ValueError(submission.error)
    example = builder.ask(submission.essay, question)
    processor = make_processor(request.run.settings, weights=True)
    sizes = [builder.renderer.size(page) for page in example.pages]
    num_tokens = len(processor.encode(example, sizes).input_ids)
    try:
        require_room(num_tokens, request.run.settings.data.max_tokens)
    except ValueError as reason:
        raise ValueError(f"{submission.place} with the question: {reason}") from None
    grader = open_grader(request.run, builder=builder, processor=processor)
    with _adapter(request, grader):
        for piece in grader.engine.stream(example):
            sys.stdout.write(piece)
            sys.stdout.flush()
    sys.stdout.write("\n")


def _adapter(request: PredictionRequest, grader: Grader) -> AbstractContextManager[None]:
    return grader.engine.without_adapter() if request.values.base else nullcontext()


def _grade(
    request: PredictionRequest, submissions: list[Submission], calibration: Calibration | None
) -> None:
    settings, values = request.run.settings, request.values
    assert values.output is not None
    output = values.output.expanduser()
    feedback = values.feedback
    if feedback is None:
        feedback = bool(read_grading_facts(request.run.path).get("asks_feedback"))
    writer = PredictionWriter(
        journal_path(output),
        provenance=_provenance(request, feedback=feedback),
        digests={one.id: one.digest for one in submissions},
    )
    todo = [one for one in submissions if one.id not in writer.done]
    builder = make_builder(settings, feedback=feedback)
    builder.renderer = pages = OpenedPages(settings.page)
    processor = make_processor(settings, weights=True)
    inbox = Inbox(todo, builder, pages, processor, settings.data.max_tokens, writer)
    grader = None
    if inbox.num_essays:
        grader = open_grader(
            request.run, builder=builder, processor=processor, calibration=calibration
        )
    with writer:
        _write_grades(request, grader, inbox)
    if output.suffix.lower() != LINES_SUFFIX:
        _write_workbook(request, output, order=[one.id for one in submissions])
    _print_summary(output, num_done=len(submissions) - len(todo), inbox=inbox)


def _write_grades(request: PredictionRequest, grader: Grader | None, inbox: Inbox) -> None:
    if grader is None:
        for _ in inbox.examples():
            raise AssertionError("an essay that cannot be graded is a question")
        return
    started = time.perf_counter()
    with _adapter(request, grader):
        for grade in grader.grade(inbox.examples(), progress="grading", total=inbox.num_essays):
            now = time.perf_counter()
            warnings = inbox.warnings.pop(grade.id)
            inbox.num_warned += bool(warnings)
            inbox.writer.write_grade(grade, seconds=now - started, warnings=warnings)
            if grade.parse_error:
                inbox.errors.append(f"{grade.id}: {grade.parse_error}")
            started = now


def _write_workbook(request: PredictionRequest, output: Path, *, order: list[str]) -> None:
    """All grades that are kept, those of this input first and in its order."""
    from aes.report.workbook import write_workbook

    places = {id: place for place, id in enumerate(order)}
    lines = read_predictions(journal_path(output))
    lines.sort(key=lambda line: places.get(line["id"], len(places)))
    labels = {name: trait.label for name, trait in request.run.settings.rubric.traits.items()}
    write_workbook(lines, output, labels=labels)


def _provenance(request: PredictionRequest, *, feedback: bool) -> Provenance:
    """What makes the grades; lines of another provenance never stand in the same file."""
    settings, values = request.run.settings, request.values
    decoding = plain(settings.decoding)
    del decoding["batch_size"]  # changes no grade
    depends = {
        "rubric": plain(settings.rubric),
        "prompt": plain(settings.prompt),
        "page": plain(settings.page),
        "decoding": decoding,
        "precision": settings.hardware.precision,
        "max_tokens": settings.data.max_tokens,
        "feedback": feedback,
        "calibration": request.calibration.method,
    }
    content = json.dumps(depends, sort_keys=True, ensure_ascii=False)
    if request.calibration.method != "none":
        path = request.calibration.path or request.run.path / CALIBRATION_FILE
        content += path.expanduser().read_text(encoding="utf-8")
    return Provenance(
        model=settings.model.path or settings.choices["model"],
        adapter="" if values.base else trained_digest(request.run.path),
        settings=hashlib.sha256(content.encode()).hexdigest()[:12],
    )


def _print_summary(output: Path, *, num_done: int, inbox: Inbox) -> None:
    console = Console(stderr=True)
    num_new = len(inbox.submissions) - len(inbox.errors)
    kept = f", {num_done} were graded before" if num_done else ""
    console.print(
        Text(f"{num_new} essays graded, {len(inbox.errors)} could not be{kept}: {output}"),
        soft_wrap=True,
    )
    if inbox.num_warned:
        console.print(f"  {inbox.num_warned} of them with warnings, each in its line")
    for error in inbox.errors[:_ERRORS_SHOWN]:
        console.print(Text(f"  {error}"), soft_wrap=True)
    if len(inbox.errors) > _ERRORS_SHOWN:
        console.print(f"  ... and {len(inbox.errors) - _ERRORS_SHOWN} more, each in its line")
