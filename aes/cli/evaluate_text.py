"""``evaluate.py`` on a run that learned from instruction data: answers, metrics, a report.

Wiring only. Base and fine-tuned model answer the same samples, and stand in one table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from aes.cli.agreement import require_same, require_same_settings
from aes.cli.graded_run import what_answers_depend_on
from aes.cli.launch import launch, must_launch
from aes.cli.requests import EvaluationRequest, TrainedRun
from aes.cli.team import follow
from aes.cli.text_part import SamplesOfPart, read_samples, require_comparable
from aes.cli.text_task import (
    AnsweringFollower,
    AnsweringTask,
    AnsweringTeam,
    LazyEngine,
    answer_share,
)
from aes.grading.journal import AnswerJournal
from aes.model.trained import trained_digest
from aes.ranks import find_ranks
from aes.records import Answered
from aes.training import WandbSpec

if TYPE_CHECKING:
    from aes.metrics.answers import AnswersEvaluation
    from aes.report.text_examples import ShownSample

_OWN_NAMES = ("trained", "base")
"""Of the run itself and of its base, in the table and in metrics.json."""


@dataclass(frozen=True)
class _Answers:
    """What one model answered, and how long that took; ``nan`` where nobody knows."""

    answered: list[Answered]
    answering_s: float
    preparation_s: float


def run_text(request: EvaluationRequest) -> int:
    """Answer, measure and report.

    On several devices this process either starts the ranks or is one of them: all answer, and the
    first one does everything else.

    Returns:
        Exit status 0.

    Raises:
        ValueError: For every mistake of the user's.
    """
    one, ranks = request.runs[0], find_ranks()
    if must_launch(one.settings.hardware, ranks):
        return launch("evaluate", num_ranks=one.settings.hardware.num_ranks)
    ranks.connect(one.settings.hardware.accelerator)
    require_same_settings(ranks, one.settings)
    everyone = (one, *request.compared)
    require_same(ranks, {"run": [str(run.path) for run in everyone]}, "runs")
    if not ranks.is_first:
        follower = AnsweringFollower(everyone, ranks)
        follow(ranks, follower.answer, tidy=follower.tidy)
        ranks.disconnect()
        return 0
    console, folder = Console(), _out(request)
    with AnsweringTeam(ranks) as team:
        part = read_samples(one, request.values.split, console)
        for other in request.compared:
            require_comparable(other, one, part, request.values.split)
        found = _answer_all(request, part, folder, team)
    # Before anything is measured: metrics would wait for those of the other ranks.
    ranks.disconnect()
    _report(request, part, found, folder, console)
    return 0


def _out(request: EvaluationRequest) -> Path:
    if request.values.out is not None:
        return request.values.out.expanduser().absolute()
    return request.runs[0].path / "evaluation" / request.values.split


def _answer_all(
    request: EvaluationRequest, part: SamplesOfPart, folder: Path, team: AnsweringTeam
) -> dict[str, _Answers]:
    """Answers by model: the run, its base where that was asked for or lies there, other runs."""
    lazy = LazyEngine(request.runs[0], part.processor, part.renderer)
    path = folder / "predictions.jsonl"
    found = {"trained": _answer(request, lazy, part, path, team, with_adapter=True)}
    path = folder / "predictions_without_adapter.jsonl"
    if request.values.baseline:
        found["base"] = _answer(request, lazy, part, path, team, with_adapter=False)
    elif (kept := _kept(request, part, path)) is not None:
        found["base"] = kept
    for name, run in _names(request).items():
        lazy.release()
        lazy = LazyEngine(run)
        # A file for each such run, so that trying another one loses nothing.
        path = folder / f"predictions_compare_{trained_digest(run.path)}.jsonl"
        found[name] = _answer(request, lazy, part, path, team, with_adapter=True)
    return found


def _names(request: EvaluationRequest) -> dict[str, TrainedRun]:
    """The runs to compare with, by names that tell them from each other and from our own."""
    names = Counter([*_OWN_NAMES, request.runs[0].name, *(run.name for run in request.compared)])
    found: dict[str, TrainedRun] = {}
    taken = set(_OWN_NAMES)
    for run in request.compared:
        told = run.name if names[run.name] == 1 else f"{run.name} {trained_digest(run.path)}"
        numbered = (f"{told} ({number})" for number in count(2))
        # Copies have one digest, and in metrics.json a slash is a hyphen.
        name = next(n for n in chain([told], numbered) if n.replace("/", "-") not in taken)
        taken.add(name.replace("/", "-"))
        found[name] = run
    return found


def _answer(
    request: EvaluationRequest,
    lazy: LazyEngine,
    part: SamplesOfPart,
    path: Path,
    team: AnsweringTeam,
    *,
    with_adapter: bool,
) -> _Answers:
    """Answers to all samples, those that ``path`` holds already not made again."""
    depends = what_answers_depend_on(lazy.run, part.examples, with_adapter=with_adapter)
    journal = AnswerJournal(path, depends, fresh=request.values.fresh)
    task = AnsweringTask(
        run=lazy.run.path,
        examples=tuple(example for example in part.examples if example.id not in journal.done),
        path=path,
        with_adapter=with_adapter,
    )
    if task.examples:
        path.touch()  # parts of a file that is not there would be taken for remains of another
        team.share(
            task,
            lambda: answer_share(task, lazy, team.ranks),
            keep=lambda by_rank: journal.settle(by_rank, [one.id for one in part.examples]),
        )
    return _Answers(
        [journal.done[example.id] for example in part.examples],
        journal.grading_s,
        lazy.preparation_s or nan,
    )


def _kept(request: EvaluationRequest, part: SamplesOfPart, path: Path) -> _Answers | None:
    """Answers of the base that an earlier evaluation left; none if any is missing."""
    if not path.is_file() or request.values.fresh:
        return None
    depends = what_answers_depend_on(request.runs[0], part.examples, with_adapter=False)
    try:
        journal = AnswerJournal(path, depends, fresh=False)
    except ValueError:  # of other settings: not asked for, so no reason to stop
        return None
    if any(example.id not in journal.done for example in part.examples):
        return None
    answered = [journal.done[example.id] for example in part.examples]
    return _Answers(answered, journal.grading_s, nan)


def _report(
    request: EvaluationRequest,
    part: SamplesOfPart,
    found: Mapping[str, _Answers],
    folder: Path,
    console: Console,
) -> None:
    from aes.report.text_card import print_answers

    evaluation = _measure(request, part, found)
    report = _write(request, evaluation, part, folder)
    print_answers(console, evaluation, report)


def _measure(
    request: EvaluationRequest, part: SamplesOfPart, found: Mapping[str, _Answers]
) -> AnswersEvaluation:
    from aes.metrics.answers import AnswersEvaluation, measure_answers

    settings = request.runs[0].settings
    models = {
        name: measure_answers(
            answers.answered,
            choices=part.choices,
            num_resamples=request.values.num_resamples,
            seed=settings.seed,
            answering_s=answers.answering_s,
            preparation_s=answers.preparation_s,
        )
        for name, answers in found.items()
    }
    return AnswersEvaluation(facts=_facts(request, part), models=models, choices=part.choices)


def _write(
    request: EvaluationRequest, evaluation: AnswersEvaluation, part: SamplesOfPart, folder: Path
) -> Path:
    """All files of the results, and the panels in W&B; returns the report."""
    from aes.report.text_files import write_answer_metrics, write_answer_references
    from aes.report.text_report import write_text_report

    settings, split = request.runs[0].settings, request.values.split
    folder.mkdir(parents=True, exist_ok=True)
    write_answer_metrics(evaluation, folder / "metrics.json", prefix=split)
    write_answer_references(
        evaluation,
        folder,
        prompts={one.id: part.processor.prompt_text(one) for one in part.examples},
        batch_size=settings.decoding.batch_size,
    )
    report = folder / "report.html"
    examples = {example.id: place for place, example in enumerate(part.examples)}

    def show(id_: str) -> ShownSample:
        from aes.report.text_examples import ShownSample

        example = part.examples[examples[id_]]
        turns = [part for message in example.messages for part in message.parts]
        text = "\n".join(turn for turn in turns if isinstance(turn, str))
        return ShownSample(text, [part.renderer.image(page) for page in example.pages])

    write_text_report(evaluation, report, show_sample=show)
    spec = settings.logger
    if isinstance(spec, WandbSpec):
        from lightning.pytorch.loggers import WandbLogger

        from aes.report.text_wandb import log_answers
        from aes.training.loggers import build_logger, close_logger

        logger = build_logger(spec, run_dir=folder, config=evaluation.facts)
        assert isinstance(logger, WandbLogger)
        log_answers(logger.experiment, evaluation, split=split)
        close_logger(logger)
    return report


def _facts(request: EvaluationRequest, part: SamplesOfPart) -> dict[str, str]:
    """What was evaluated, for people to read."""
    one = request.runs[0]
    settings = one.settings
    constrained = "likeliest label" if settings.decoding.constrained else "free text, then read"
    facts = {
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "run": one.name,
        "split": request.values.split,
        "samples": str(len(part.examples)),
        "model": settings.model.path or settings.choices["model"],
        "adapter": trained_digest(one.path),
        "data": settings.choices["data"],
        "decoding": constrained if part.choices else "greedy",
        "precision": settings.hardware.precision,
        "seed": str(settings.seed),
        "resamples": str(request.values.num_resamples),
    }
    if part.choices:
        facts["labels"] = str(len(part.choices))
    if part.dropped:
        facts["left out"] = (
            f"{len(part.dropped)} samples over data.max_tokens={settings.data.max_tokens}"
        )
    if part.num_seen:
        facts["note"] = f"{part.num_seen} samples were trained on: the numbers flatter the model"
    return facts
