"""``python predict.py``: grades for essays without gold scores, or an answer. Wiring only."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from aes.cli.agreement import require_same, require_same_settings
from aes.cli.engines import needs_weights
from aes.cli.grading import open_grader
from aes.cli.inbox import require_room
from aes.cli.launch import launch, must_launch
from aes.cli.prediction_task import (
    Handled,
    PredictionTask,
    PredictionTeam,
    Predictor,
    adapter,
)
from aes.cli.requests import PredictionRequest, plain
from aes.cli.samples import make_builder, make_processor
from aes.cli.team import follow
from aes.corpus.submissions import Submission, check_submission, read_submissions
from aes.grading.calibration_file import CALIBRATION_FILE, load_calibration
from aes.inference import VllmSpec
from aes.model.trained import read_grading_facts, trained_digest
from aes.page.pdf import num_pages
from aes.ranks import find_ranks
from aes.report.predictions import (
    LINES_SUFFIX,
    PredictionWriter,
    Provenance,
    journal_path,
    read_predictions,
    require_output,
)

if TYPE_CHECKING:
    from aes.grading.calibration import Calibration

_ERRORS_SHOWN = 5


def run(request: PredictionRequest) -> int:
    """Grade what was handed in, or answer a question about it.

    A run that learned from instruction data answers either way.

    On several devices this process either starts the ranks or is one of them: all grade, and the
    first one does everything else. A question is answered by one alone.

    Returns:
        Exit status 0, also where some essays could not be graded: their lines say why.

    Raises:
        ValueError: For every mistake of the user's that concerns all essays.
    """
    hardware, ranks = request.run.settings.hardware, find_ranks()
    if request.run.settings.has_texts:
        from aes.cli.text_predict import predict_text

        return predict_text(request)
    if request.values.question is not None:
        if ranks.is_first:
            _ask(request)
        return 0
    if must_launch(hardware, ranks):
        return launch("predict", num_ranks=hardware.num_ranks)
    ranks.connect(hardware.accelerator)
    require_same_settings(ranks, request.run.settings)
    own = {"run": request.run.path, "base": request.values.base} | plain(request.calibration)
    require_same(ranks, own, "runs")
    predictor = Predictor(request, _calibration(request), ranks)
    if ranks.is_first:
        with PredictionTeam(ranks) as team:
            _grade(request, predictor, team)
    else:
        follow(ranks, predictor.grade, tidy=predictor.tidy)
    ranks.disconnect()
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
    rubric = one.settings.essay_rubric
    calibration = load_calibration(path, rubric, spec.method, adapter_digest=digest)
    if not calibration.curves:
        reason = next(iter(calibration.unchanged.values()), "there is no map in it")
        raise ValueError(
            f"{path} would change no grade ({reason}); leave calibration={spec.method} out, or "
            "evaluate a part with more essays"
        )
    return calibration


def _read(request: PredictionRequest) -> list[Submission]:
    values = request.values
    return read_submissions(
        values.input.expanduser(),
        num_pages=num_pages,
        max_pages=values.max_pages,
        max_chars=values.max_chars,
    )


def _ask(request: PredictionRequest) -> None:
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
    submissions = _read(request)
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
    processor = make_processor(request.run.settings, weights=needs_weights(request.run.settings))
    sizes = [builder.renderer.size(page) for page in example.pages]
    num_tokens = len(processor.encode(example, sizes).input_ids)
    try:
        require_room(num_tokens, request.run.settings.data.max_tokens)
    except ValueError as reason:
        raise ValueError(f"{submission.place} with the question: {reason}") from None
    grader = open_grader(request.run, builder=builder, processor=processor)
    with adapter(request, grader):
        for piece in grader.engine.stream(example):
            sys.stdout.write(piece)
            sys.stdout.flush()
    sys.stdout.write("\n")


def _grade(request: PredictionRequest, predictor: Predictor, team: PredictionTeam) -> None:
    """Have all graded that is not yet, and write it down."""
    values = request.values
    assert values.output is not None
    output, feedback = values.output.expanduser(), values.feedback
    if feedback is None:
        feedback = bool(read_grading_facts(request.run.path).get("asks_feedback"))
    submissions = _read(request)
    require_output(output, input=values.input.expanduser())
    provenance = _provenance(request, feedback=feedback)
    digests = {one.id: one.digest for one in submissions}
    writer = PredictionWriter(journal_path(output), provenance=provenance, digests=digests)
    task = PredictionTask(
        submissions=tuple(one for one in submissions if one.id not in writer.done),
        path=writer.path.absolute(),
        provenance=provenance,
        digests=digests,
        feedback=feedback,
    )
    order, handled = [one.id for one in submissions], list[Handled]()

    def work() -> Handled:
        inbox = predictor.grade_into(writer, task)
        return Handled(lines=[], errors=inbox.errors, num_warned=inbox.num_warned)

    def keep(by_rank: list[Handled]) -> None:
        handled.extend(by_rank)
        writer.settle(order, [line for one in by_rank for line in one.lines])

    with writer:
        team.share(task, work, keep=keep)
    if output.suffix.lower() != LINES_SUFFIX:
        _write_workbook(request, output)
    _print_summary(output, order, task, handled)


def _write_workbook(request: PredictionRequest, output: Path) -> None:
    """All grades that are kept, in the order of the lines."""
    from aes.report.workbook import write_workbook

    labels = {name: trait.label for name, trait in request.run.settings.essay_rubric.traits.items()}
    write_workbook(read_predictions(journal_path(output)), output, labels=labels)


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
    if isinstance(settings.engine, VllmSpec):
        depends["engine"] = "vllm"
    content = json.dumps(depends, sort_keys=True, ensure_ascii=False)
    if request.calibration.method != "none":
        path = request.calibration.path or request.run.path / CALIBRATION_FILE
        content += path.expanduser().read_text(encoding="utf-8")
    return Provenance(
        model=settings.model.path or settings.choices["model"],
        adapter="" if values.base else trained_digest(request.run.path),
        settings=hashlib.sha256(content.encode()).hexdigest()[:12],
    )


def _print_summary(
    output: Path, order: Sequence[str], task: PredictionTask, handled: Sequence[Handled]
) -> None:
    console = Console(stderr=True)
    found = {id: error for one in handled for id, error in one.errors.items()}
    errors = [found[id] for id in order if id in found]
    num_new, num_done = len(task.submissions) - len(errors), len(order) - len(task.submissions)
    kept = f", {num_done} were graded before" if num_done else ""
    console.print(
        Text(f"{num_new} essays graded, {len(errors)} could not be{kept}: {output}"),
        soft_wrap=True,
    )
    if num_warned := sum(one.num_warned for one in handled):
        console.print(f"  {num_warned} of them with warnings, each in its line")
    for error in errors[:_ERRORS_SHOWN]:
        console.print(Text(f"  {error}"), soft_wrap=True)
    if len(errors) > _ERRORS_SHOWN:
        console.print(f"  ... and {len(errors) - _ERRORS_SHOWN} more, each in its line")
