"""Submissions -> lines of grades or errors, each rank its share with its own copy of the model.

Wiring only. What a rank has graded it writes down at once; what is to be graded, and what becomes
of the lines, is decided in ``aes.cli.predict`` on the first rank.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aes.cli.engines import needs_weights
from aes.cli.grading import open_grader, progress_label
from aes.cli.inbox import Inbox, OpenedPages
from aes.cli.requests import PredictionRequest
from aes.cli.samples import make_builder, make_processor
from aes.cli.team import Team
from aes.corpus.submissions import Submission
from aes.grading.shares import own_path, share_of
from aes.ranks import Ranks
from aes.report.prediction_lines import Line, LineWriter, Provenance, read_lines

if TYPE_CHECKING:
    from aes.grading import Grader
    from aes.grading.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class PredictionTask:
    """Submissions that all ranks grade together.

    Attributes:
        submissions: Those of all ranks.
        path: File of the first rank's lines.
        provenance: What makes the grades.
        digests: Of the essays, by id.
        feedback: Whether a comment is asked for.
    """

    submissions: tuple[Submission, ...]
    path: Path
    provenance: Provenance
    digests: dict[str, str]
    feedback: bool


@dataclass(frozen=True, kw_only=True)
class Handled:
    """What came of a rank's share.

    Attributes:
        lines: As written into a part; none of the first rank, whose lines are where they belong.
        errors: Why essays could not be graded, by their ids.
        num_warned: Essays graded with warnings.
    """

    lines: list[Line]
    errors: dict[str, str]
    num_warned: int


PredictionTeam = Team[PredictionTask, Handled]


@dataclass(frozen=True)
class Predictor:
    """Grades this rank's shares."""

    request: PredictionRequest
    calibration: Calibration | None
    ranks: Ranks

    def grade(self, task: PredictionTask) -> Handled:
        """A share on a rank that is not the first; its lines go into a part."""
        part = own_path(task.path, self.ranks)
        part.unlink(missing_ok=True)
        with LineWriter(part, provenance=task.provenance, digests=task.digests) as writer:
            inbox = self.grade_into(writer, task)
        return Handled(lines=read_lines(part), errors=inbox.errors, num_warned=inbox.num_warned)

    def tidy(self, task: PredictionTask) -> None:
        """Remove this rank's part, which the first one has put into its file."""
        own_path(task.path, self.ranks).unlink(missing_ok=True)

    def grade_into(self, writer: LineWriter, task: PredictionTask) -> Inbox:
        """The share, every line written as soon as it is known."""
        settings = self.request.run.settings
        builder = make_builder(settings, feedback=task.feedback)
        builder.renderer = pages = OpenedPages(settings.page)
        processor = make_processor(settings, weights=needs_weights(settings))
        own = share_of(task.submissions, self.ranks, size=_work)
        inbox = Inbox(own, builder, pages, processor, settings.data.max_tokens, writer)
        if not inbox.num_essays:
            for _ in inbox.examples():
                raise AssertionError("an essay that cannot be graded is a question")
            return inbox
        grader = open_grader(
            self.request.run, builder=builder, processor=processor, calibration=self.calibration
        )
        with adapter(self.request, grader):
            self._write_grades(grader, inbox)
        return inbox

    def _write_grades(self, grader: Grader, inbox: Inbox) -> None:
        label, started = progress_label(self.ranks), time.perf_counter()
        for grade in grader.grade(inbox.examples(), progress=label, total=inbox.num_essays):
            now = time.perf_counter()
            warnings = inbox.warnings.pop(grade.id)
            inbox.num_warned += bool(warnings)
            inbox.writer.write_grade(grade, seconds=now - started, warnings=warnings)
            if grade.parse_error:
                inbox.errors[grade.id] = f"{grade.id}: {grade.parse_error}"
            started = now


def adapter(request: PredictionRequest, grader: Grader) -> AbstractContextManager[None]:
    """Within this context the model answers as was asked for, with its adapter or without."""
    return grader.engine.without_adapter() if request.values.base else nullcontext()


def _work(submission: Submission) -> tuple[int, int]:
    """Puts submissions in the order of the work that they make."""
    essay = submission.essay
    return (0, 0) if essay is None else (len(essay.pages), len(essay.text))
