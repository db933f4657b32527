"""A run and the essays of one of its parts -> graded essays, kept as they come.

Wiring only. What was graded before a kill is not graded again.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aes.cli.grading import EssaysOfPart, open_grader
from aes.cli.requests import EvaluationRequest, TrainedRun, plain
from aes.cli.samples import Material
from aes.grading.journal import Journal
from aes.model.trained import trained_digest
from aes.records import Example, Marked, PageLayout, PdfPage

if TYPE_CHECKING:
    from aes.grading import Grader


class LazyGrader:
    """A run's Grader, loaded when the first essay is to be graded."""

    def __init__(self, run: TrainedRun, material: Material) -> None:
        self.run = run
        self.material = material
        self.preparation_s = 0.0

    @cached_property
    def grader(self) -> Grader:
        """The Grader; the first use takes the time of loading."""
        started = time.perf_counter()
        grader = open_grader(
            self.run, builder=self.material.builder, processor=self.material.processor
        )
        self.preparation_s = time.perf_counter() - started
        return grader

    def release(self) -> None:
        """Give the model's memory back, for the next one; a later use loads it again."""
        self.__dict__.pop("grader", None)
        gc.collect()
        if self.run.settings.hardware.accelerator == "cuda":
            import torch

            torch.cuda.empty_cache()


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
    request: EvaluationRequest, one: TrainedRun, part: EssaysOfPart, folder: Path
) -> GradedRun:
    """All essays of the part, with the adapter and, if asked for, without.

    Args:
        folder: Of all results; of several runs each keeps its grades in itself.
    """
    values = request.values
    out = folder if len(request.runs) == 1 else one.path / "evaluation" / values.split
    lazy = LazyGrader(one, part.material)
    marked, grading_s = grade(lazy, part.examples, out / "predictions.jsonl", request)
    path = out / "predictions_without_adapter.jsonl"
    if values.baseline:
        base, _ = grade(lazy, part.examples, path, request, with_adapter=False)
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
    *,
    with_adapter: bool = True,
    scores_only: bool = False,
) -> tuple[list[Marked], float]:
    """Grades of examples, those that ``path`` holds already not made again; and the seconds."""
    settings = _what_grades_depend_on(lazy.run, examples, with_adapter=with_adapter)
    journal = Journal(path, settings, fresh=request.values.fresh)
    todo = [example for example in examples if example.id not in journal.marked]
    if todo:
        grader = lazy.grader
        switch = nullcontext() if with_adapter else grader.engine.without_adapter()
        with switch:
            fold = lazy.run.settings.data.fold
            journal.keep(mark(grader, todo, fold=fold, scores_only=scores_only))
    return [journal.marked[example.id] for example in examples], journal.grading_s


def _kept(run: TrainedRun, examples: Sequence[Example], path: Path) -> list[Marked]:
    """Grades without the adapter that an earlier evaluation left; none if any is missing."""
    if not path.is_file():
        return []
    settings = _what_grades_depend_on(run, examples, with_adapter=False)
    try:
        marked = Journal(path, settings, fresh=False).marked
    except ValueError:  # of other settings: not asked for, so no reason to stop
        return []
    found = [marked[example.id] for example in examples if example.id in marked]
    return found if len(found) == len(examples) else []


def mark(
    grader: Grader, examples: Sequence[Example], *, fold: int | None, scores_only: bool
) -> Iterator[Marked]:
    """Grades beside what is known about the essays, in order."""
    grades = grader.grade(examples, scores_only=scores_only, progress="grading")
    for example, grade in zip(examples, grades, strict=True):
        yield Marked(
            id=example.id,
            source=example.source,
            group=example.group,
            num_chars=example.num_chars,
            gold=example.scores,
            gold_text="".join(text for text, _ in example.answer),
            grade=grade,
            fold=fold,
        )


def _what_grades_depend_on(
    run: TrainedRun, examples: Sequence[Example], *, with_adapter: bool
) -> dict[str, Any]:
    """Settings that a journal's grades were made under, as plain values."""
    settings = run.settings
    files = {
        page.path if isinstance(page, PdfPage) else page
        for example in examples
        for page in example.pages
        if not isinstance(page, PageLayout)
    }
    # By content: the suite writes its changed images anew each time.
    contents = sorted((str(f), hashlib.sha256(f.read_bytes()).hexdigest()) for f in files)
    asked = hashlib.sha256(repr((examples, contents)).encode()).hexdigest()[:12]
    decoding, page = plain(settings.decoding), plain(settings.page)
    del decoding["batch_size"], page["save_dir"]  # change no grade
    return {
        "adapter": trained_digest(run.path) if with_adapter else "off",
        "model": plain(settings.model),
        "decoding": decoding,
        "page": page,
        "rubric": plain(settings.rubric),
        "precision": settings.hardware.precision,
        "essays and pages": asked,
    }
