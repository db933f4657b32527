"""What an evaluation grades beside its essays: changed copies, and the same by other runs.

Wiring only.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aes.cli.graded_run import GradedRun, grade
from aes.cli.grading_task import GradingTeam, LazyGrader
from aes.cli.requests import EvaluationRequest, TrainedRun
from aes.cli.samples import Material, make_builder, make_processor, tokenise
from aes.model.trained import trained_digest
from aes.prompt.suite_spec import SuiteSpec
from aes.records import Marked

if TYPE_CHECKING:
    from aes.prompt.suite import Suite


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What was graded beside the essays.

    Attributes:
        suite: Changed copies of the essays; ``None``: not asked for.
        of_suite: In step with the suite's variants.
        of_second: The same essays by the second run, in step with the first one's; ``None``: there
            is no second.
        of_compared: The same by each run to compare with, in their order.
    """

    suite: Suite | None
    of_suite: list[Marked]
    of_second: list[Marked] | None
    of_compared: list[list[Marked]]


def grade_extras(
    request: EvaluationRequest, graded: Sequence[GradedRun], folder: Path, team: GradingTeam
) -> Extras:
    """All that was asked for.

    Args:
        graded: The runs with the essays that they graded.
        folder: Of the results.
    """
    # Before a second model takes the place of the first.
    suite, of_suite = _grade_suite(request, graded[0], folder, team)
    found, lazy = [], graded[0].lazy
    seconds = () if request.second is None else (request.second,)
    for run in (*seconds, *request.compared):
        marked, lazy = _grade_by(run, request, graded[0], lazy, folder, team)
        found.append(marked)
    return Extras(
        suite=suite,
        of_suite=of_suite,
        of_second=found[0] if seconds else None,
        of_compared=found[len(seconds) :],
    )


def _grade_suite(
    request: EvaluationRequest, one: GradedRun, folder: Path, team: GradingTeam
) -> tuple[Suite | None, list[Marked]]:
    if not isinstance(request.suite, SuiteSpec):
        return None, []
    from aes.prompt.suite import build_suite

    images = folder / "suite_pages"
    try:
        suite = build_suite(
            one.part.essays,
            builder=one.part.material.builder,
            spec=request.suite,
            seed=one.run.settings.seed,
            image_dir=images,
        )
        examples = [variant.example for variant in suite.variants]
        path = folder / "predictions_robustness.jsonl"
        marked, _ = grade(one.lazy, examples, path, request, team, scores_only=True)
    finally:
        shutil.rmtree(images, ignore_errors=True)
    return suite, marked


def _grade_by(
    run: TrainedRun,
    request: EvaluationRequest,
    one: GradedRun,
    before: LazyGrader,
    folder: Path,
    team: GradingTeam,
) -> tuple[list[Marked], LazyGrader]:
    """The first run's essays as another run grades them, and what graded them."""
    material = Material(
        one.part.material.reading,
        make_builder(run.settings, feedback=run.asks_feedback),
        make_processor(run.settings, weights=True),
    )
    examples = tokenise(run.settings, material, one.part.essays, label=run.name).examples()
    lazy = LazyGrader(run, material.builder, material.processor, before=before)
    # A file for each such run, so that trying another one loses nothing.
    path = folder / f"predictions_second_{trained_digest(run.path)}.jsonl"
    marked, _ = grade(lazy, examples, path, request, team)
    return marked, lazy
