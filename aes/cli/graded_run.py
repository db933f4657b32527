"""A run and the essays of one of its parts -> graded essays, kept as they come.

Wiring only. What was graded before a kill is not graded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aes.cli.grading import EssaysOfPart
from aes.cli.grading_task import GradingTask, GradingTeam, LazyGrader, grade_share
from aes.cli.requests import EvaluationRequest, TrainedRun, plain
from aes.grading.journal import Journal
from aes.inference import VllmSpec
from aes.model.trained import trained_digest
from aes.page import image_bytes
from aes.records import Example, Marked, PageLayout, PdfPage


@dataclass
class GradedRun:
    """One run and the essays that it graded.

    Attributes:
        out: Folder of its results.
        marked: In the order of the data.
        base: The same essays graded without the adapter; empty if that was never asked for.
        grading_s: Seconds of grading, those before a kill included.
        lazy: To grade more.
    """

    run: TrainedRun
    part: EssaysOfPart
    out: Path
    marked: list[Marked]
    base: list[Marked]
    grading_s: float
    lazy: LazyGrader


def grade_run(
    request: EvaluationRequest,
    one: TrainedRun,
    part: EssaysOfPart,
    folder: Path,
    team: GradingTeam,
) -> GradedRun:
    """All essays of the part, with the adapter and, if asked for, without.

    Args:
        folder: Of all results; of several runs each keeps its grades in itself.
    """
    values = request.values
    out = folder if len(request.runs) == 1 else one.path / "evaluation" / values.split
    lazy = LazyGrader(one, part.material.builder, part.material.processor)
    marked, grading_s = grade(lazy, part.examples, out / "predictions.jsonl", request, team)
    path = out / "predictions_without_adapter.jsonl"
    if values.baseline:
        base, _ = grade(lazy, part.examples, path, request, team, with_adapter=False)
    else:
        base = _kept(one, part.examples, path)
    if len(request.runs) > 1:
        lazy.release()
    return GradedRun(one, part, out, marked, base, grading_s, lazy)


def grade(
    lazy: LazyGrader,
    examples: Sequence[Example],
    path: Path,
    request: EvaluationRequest,
    team: GradingTeam,
    *,
    with_adapter: bool = True,
    scores_only: bool = False,
) -> tuple[list[Marked], float]:
    """Grades of examples, those that ``path`` holds already not made again; and the wall time."""
    settings = what_answers_depend_on(lazy.run, examples, with_adapter=with_adapter)
    journal = Journal(path, settings, fresh=request.values.fresh)
    task = GradingTask(
        run=lazy.run.path,
        examples=tuple(example for example in examples if example.id not in journal.marked),
        path=path,
        with_adapter=with_adapter,
        scores_only=scores_only,
    )
    if task.examples:
        path.touch()  # parts of a file that is not there would be taken for remains of another
        team.share(
            task,
            lambda: grade_share(task, lazy, team.ranks),
            keep=lambda by_rank: journal.settle(by_rank, [example.id for example in examples]),
        )
    return [journal.marked[example.id] for example in examples], journal.grading_s


def _kept(run: TrainedRun, examples: Sequence[Example], path: Path) -> list[Marked]:
    """Grades without the adapter that an earlier evaluation left; none if any is missing."""
    if not path.is_file():
        return []
    settings = what_answers_depend_on(run, examples, with_adapter=False)
    try:
        marked = Journal(path, settings, fresh=False).marked
    except ValueError:  # of other settings: not asked for, so no reason to stop
        return []
    found = [marked[example.id] for example in examples if example.id in marked]
    return found if len(found) == len(examples) else []


def what_answers_depend_on(
    run: TrainedRun, examples: Sequence[Example], *, with_adapter: bool
) -> dict[str, Any]:
    """Settings that a journal's grades or answers were made under, as plain values."""
    settings = run.settings
    files = {
        page.path if isinstance(page, PdfPage) else page
        for example in examples
        for page in example.pages
        if not isinstance(page, PageLayout)
    }
    # By content: the suite writes its changed images anew each time.
    contents = sorted((str(f), hashlib.sha256(image_bytes(f)).hexdigest()) for f in files)
    asked = hashlib.sha256(repr((examples, contents)).encode()).hexdigest()[:12]
    decoding, page = plain(settings.decoding), plain(settings.page)
    del decoding["batch_size"], page["save_dir"]  # change no grade
    # Not a key of its own for the model loaded here, so that earlier grades stay valid.
    engine = {"engine": "vllm"} if isinstance(settings.engine, VllmSpec) else {}
    return {
        **engine,
        "adapter": trained_digest(run.path) if with_adapter else "off",
        "model": plain(settings.model),
        "decoding": decoding,
        "page": page,
        "rubric": plain(settings.rubric),
        "precision": settings.hardware.precision,
        "essays and pages": asked,
    }
