"""Examples -> graded essays, each rank its share with its own copy of the model.

Wiring only. What a rank has graded it writes down at once; which essays are to be graded, and what
becomes of the grades, is decided in ``aes.cli.graded_run`` on the first rank.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aes.cli.grading import open_grader, progress_label
from aes.cli.requests import EvaluationRequest, TrainedRun
from aes.cli.samples import make_builder, make_processor
from aes.cli.team import Team
from aes.grading.journal import Kept, write_lines
from aes.grading.shares import own_path, share_of
from aes.model.trained import may_take_base
from aes.ranks import Ranks
from aes.records import Example, Marked, PageLayout

if TYPE_CHECKING:
    from aes.data.processor import Processor
    from aes.grading import Grader
    from aes.prompt.build import ExampleBuilder


class LazyGrader:
    """A run's Grader, loaded when the first essay is to be graded.

    Args:
        before: Another run's, which is done. Its base weights are taken over where they are the
            same, and let go of where they are not.
    """

    def __init__(
        self,
        run: TrainedRun,
        builder: ExampleBuilder,
        processor: Processor,
        *,
        before: LazyGrader | None = None,
    ) -> None:
        self.run = run
        self.builder = builder
        self.processor = processor
        self.preparation_s = 0.0
        self._before = before

    @cached_property
    def grader(self) -> Grader:
        """The Grader; the first use takes the time of loading."""
        started = time.perf_counter()
        grader = open_grader(
            self.run,
            builder=self.builder,
            processor=self.processor,
            loaded=None if self._before is None else self._before.give_model(self.run),
        )
        self._before = None
        self.preparation_s = time.perf_counter() - started
        return grader

    def give_model(self, run: TrainedRun) -> Any | None:
        """The model, where ``run`` has the same base; either way this one lets go of it."""
        grader: Grader | None = self.__dict__.pop("grader", None)
        if self._before is not None:  # nothing was left for this one to grade
            return self._before.give_model(run)
        if grader is not None and _have_same_base(self.run, run):
            return grader.engine.model
        del grader
        self.release()
        return None

    def release(self) -> None:
        """Give the model's memory back, for the next one; a later use loads it again."""
        self.__dict__.pop("grader", None)
        gc.collect()
        if self.run.settings.hardware.accelerator == "cuda":
            import torch

            torch.cuda.empty_cache()


def _have_same_base(first: TrainedRun, second: TrainedRun) -> bool:
    """Whether two runs differ in their adapters alone, as far as loading goes."""
    one, other = first.settings, second.settings
    return (
        one.model == other.model
        and one.kernels == other.kernels
        and one.hardware.precision == other.hardware.precision
        and one.hardware.accelerator == other.hardware.accelerator
        and may_take_base(first.path, second.path)
    )


@dataclass(frozen=True, kw_only=True)
class GradingTask:
    """Examples that all ranks grade together.

    Attributes:
        run: Directory of the run that grades.
        examples: Those of all ranks.
        path: Journal of the first rank.
    """

    run: Path
    examples: tuple[Example, ...]
    path: Path
    with_adapter: bool
    scores_only: bool


GradingTeam = Team[GradingTask, list[Kept]]


def grade_share(task: GradingTask, lazy: LazyGrader, ranks: Ranks) -> list[Kept]:
    """This rank's share of a task, each essay written down as soon as it is graded."""
    own = share_of(task.examples, ranks, size=_work)
    if not own:
        return []
    grader = lazy.grader
    with nullcontext() if task.with_adapter else grader.engine.without_adapter():
        graded = mark(
            grader,
            own,
            fold=lazy.run.settings.corpus.fold,
            scores_only=task.scores_only,
            progress=progress_label(ranks),
        )
        return write_lines(own_path(task.path, ranks), graded, num_ranks=ranks.num_ranks)


class Follower:
    """Grades shares of tasks on a rank that is not the first, one run's model at a time."""

    def __init__(self, request: EvaluationRequest, ranks: Ranks) -> None:
        second = () if request.second is None else (request.second,)
        self.runs = {run.path: run for run in (*request.runs, *second, *request.compared)}
        self.ranks = ranks
        self._lazy: LazyGrader | None = None

    def grade(self, task: GradingTask) -> list[Kept]:
        """See ``grade_share``."""
        if self._lazy is None or self._lazy.run.path != task.run:
            run = self.runs[task.run]
            builder = make_builder(run.settings, feedback=run.asks_feedback)
            processor = make_processor(run.settings, weights=True)
            self._lazy = LazyGrader(run, builder, processor, before=self._lazy)
        return grade_share(task, self._lazy, self.ranks)

    def tidy(self, task: GradingTask) -> None:
        """Remove this rank's part, which the first one has put into its file."""
        own_path(task.path, self.ranks).unlink(missing_ok=True)


def _work(example: Example) -> tuple[bool, int, int]:
    """Puts examples in the order of the work that they make: comments, then tokens of pages."""
    drawn = [page for page in example.pages if isinstance(page, PageLayout)]
    pixels = sum(page.width_px * page.height_px for page in drawn)
    return example.asks_feedback, len(example.pages) - len(drawn), pixels or example.num_chars


def mark(
    grader: Grader,
    examples: Sequence[Example],
    *,
    fold: int | None,
    scores_only: bool,
    progress: str | None,
) -> Iterator[Marked]:
    """Grades beside what is known about the essays, in order.

    Raises:
        ValueError: After all others, if some essays got no answer: they are not counted as
            answers that could not be read.
    """
    grades = grader.grade(examples, scores_only=scores_only, progress=progress)
    missing: list[str] = []
    for example, grade in zip(examples, grades, strict=True):
        if grade.is_missing:
            missing.append(f"{grade.id}: {grade.parse_error}")
            continue
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
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(examples)} essays got no answer, the first being "
            f"{missing[0]}; the others are kept, so mend that and start the same command again"
        )
