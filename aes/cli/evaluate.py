"""``python evaluate.py``: from a finished run to metrics and a report. Wiring only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from aes.cli.agreement import require_same, require_same_settings
from aes.cli.graded_extras import Extras, grade_extras
from aes.cli.graded_run import GradedRun, grade_run
from aes.cli.grading import EssaysOfPart, read_part, require_same_question
from aes.cli.grading_task import Follower, GradingTeam
from aes.cli.launch import launch, must_launch
from aes.cli.measuring import measure_runs
from aes.cli.requests import EvaluationRequest, TrainedRun
from aes.cli.team import follow
from aes.ranks import find_ranks
from aes.training import WandbSpec

if TYPE_CHECKING:
    from PIL.Image import Image

    from aes.metrics.results import Evaluation


def run(request: EvaluationRequest) -> int:
    """Grade, measure and report; a run that learned from instruction data answers instead.

    On several devices this process either starts the ranks or is one of them: all grade, and the
    first one does everything else.

    Returns:
        Exit status 0.

    Raises:
        ValueError: For every mistake of the user's.
    """
    if request.runs[0].settings.has_texts:
        from aes.cli.evaluate_text import run_text

        return run_text(request)
    settings, ranks, folder = request.runs[0].settings, find_ranks(), _out(request)
    if must_launch(settings.hardware, ranks):
        return launch("evaluate", num_ranks=settings.hardware.num_ranks)
    ranks.connect(settings.hardware.accelerator)
    require_same_settings(ranks, settings)
    everyone = (*request.runs, request.second, *request.compared)
    paths = [run.path for run in everyone if run is not None]
    require_same(ranks, {"run": [str(path) for path in paths]}, "runs")
    if not ranks.is_first:
        follower = Follower(request, ranks)
        follow(ranks, follower.grade, tidy=follower.tidy)
        ranks.disconnect()
        return 0
    console = Console()
    with GradingTeam(ranks) as team:
        graded, extras = _grade(request, folder, team, console)
    # Before anything is measured: metrics would wait for those of the other ranks.
    ranks.disconnect()
    _report(request, graded, extras, folder, console)
    return 0


def _grade(
    request: EvaluationRequest, folder: Path, team: GradingTeam, console: Console
) -> tuple[list[GradedRun], Extras]:
    """All that can be refused is, before the first essay is graded."""
    # Folds share their data: what is wrong with it is said once.
    consoles = [console, *(Console(quiet=True) for _ in request.runs[1:])]
    parts = [
        read_part(one, request.values.split, where)
        for one, where in zip(request.runs, consoles, strict=True)
    ]
    if len(parts) > 1:
        _require_folds(request.runs, parts)
    others = {"second": [request.second] if request.second else [], "compare": request.compared}
    for key, runs in others.items():
        for other in runs:
            require_same_question(other, request.runs[0], parts[0], request.values.split, key=key)
    graded = [
        grade_run(request, one, part, folder, team)
        for one, part in zip(request.runs, parts, strict=True)
    ]
    return graded, grade_extras(request, graded, folder, team)


def _report(
    request: EvaluationRequest,
    graded: Sequence[GradedRun],
    extras: Extras,
    folder: Path,
    console: Console,
) -> None:
    from aes.report.evaluation_card import print_evaluation

    evaluation = measure_runs(request, graded, extras, folder)
    report = _write(request, evaluation, graded, folder)
    print_evaluation(console, evaluation, graded[0].run.settings.essay_rubric, report)


def _out(request: EvaluationRequest) -> Path:
    """Folder of the results: in the run, or beside the folds."""
    if request.values.out is not None:
        return request.values.out.expanduser().absolute()
    parents = {one.path.parent for one in request.runs}
    inner = Path("evaluation") / request.values.split
    if len(request.runs) == 1:
        return request.runs[0].path / inner
    if len(parents) > 1:
        raise ValueError(
            "the runs to pool lie in different folders, so it is not clear where the results "
            "belong; add out=DIR"
        )
    return parents.pop() / inner


def _require_folds(runs: Sequence[TrainedRun], parts: Sequence[EssaysOfPart]) -> None:
    """Pooled runs must hold out different essays under one rubric, as folds do."""
    owners: dict[str, Path] = {}
    for one, part in zip(runs, parts, strict=True):
        if one.settings.rubric != runs[0].settings.rubric:
            raise ValueError(
                f"{runs[0].path} and {one.path} grade by different rubrics; pool the folds of one "
                "cross-validation"
            )
        for source in {essay.source for essay in part.essays}:
            if source in owners:
                raise ValueError(
                    f"{owners[source]} and {one.path} both hold out {source}, so they are not "
                    "folds of one cross-validation; train folds with python train.py -m "
                    "data.fold=0,1,2,3,4 data.num_folds=5, or compare two runs with second=DIR"
                )
            owners[source] = one.path


def _write(
    request: EvaluationRequest,
    evaluation: Evaluation,
    graded: Sequence[GradedRun],
    folder: Path,
) -> Path:
    """All files of the results, and the panels in W&B; returns the report."""
    from aes.report.evaluation import write_report
    from aes.report.evaluation_files import write_metrics, write_reference_files

    one = graded[0]
    rubric = one.run.settings.essay_rubric
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(evaluation, folder / "metrics.json", prefix=request.values.split)
    prompts = {
        example.id: run.part.material.processor.prompt_text(example)
        for run in graded
        for example in run.part.examples
    }
    write_reference_files(
        evaluation,
        folder,
        prompts=prompts,
        grading_s=sum(run.grading_s for run in graded),
        preparation_s=sum(run.lazy.preparation_s for run in graded),
        batch_size=one.run.settings.decoding.batch_size,
    )
    report = folder / "report.html"
    images = _page_images(graded)
    write_report(evaluation, rubric, report, page_images=images)
    spec = one.run.settings.logger
    if isinstance(spec, WandbSpec):
        from lightning.pytorch.loggers import WandbLogger

        from aes.report.evaluation_wandb import log_evaluation
        from aes.training.loggers import build_logger, close_logger

        logger = build_logger(spec, run_dir=folder, config=evaluation.facts)
        assert isinstance(logger, WandbLogger)
        split = request.values.split
        # Pupils' pages and answers leave the machine only if they are sent by hand.
        shown = images if spec.mode == "offline" else None
        log_evaluation(logger.experiment, evaluation, rubric, split=split, page_images=shown)
        close_logger(logger)
    return report


def _page_images(graded: Sequence[GradedRun]) -> Any:
    """Draws an essay's pages by its id."""
    places = {
        example.id: (run.part.material.builder.renderer, example)
        for run in graded
        for example in run.part.examples
    }

    def images(id: str) -> list[Image]:
        renderer, example = places[id]
        return [renderer.image(page) for page in example.pages]

    return images
