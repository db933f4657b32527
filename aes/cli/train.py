"""``python train.py``: from settings to a finished run. Wiring only; the work is done elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from aes.cli.agreement import (
    first_on_each_node,
    require_same,
    require_same_settings,
    require_visible,
)
from aes.cli.building import build_data, build_module, keep_pages, measure_baselines
from aes.cli.closing import finish, grading_facts
from aes.cli.launch import launch, must_launch
from aes.cli.planning import make_run_plan
from aes.cli.resume import AUTO, LAST_FILES, ResumePlan, describe_run, plan_resume, require_same_run
from aes.cli.run_directory import (
    create_run_directory,
    require_cache,
    require_free_space,
    require_unused,
)
from aes.cli.samples import CHECK_FILE, Samples, describe_samples, prepare_samples, write_split
from aes.cli.settings import Settings
from aes.cli.texts import choose_checkpoint
from aes.corpus import write_check
from aes.files import write_atomically
from aes.ranks import Ranks, find_ranks
from aes.training.checkpoint.resumable import CHECKPOINTS_FOLDER

if TYPE_CHECKING:
    from aes.plan import Plan

PLAN_FILE = "plan.json"


def run(settings: Settings) -> int:
    """Check the data, plan, and unless only that was asked for, train.

    On several devices this process either starts the ranks or is one of them.

    Returns:
        Exit status: 0, or 1 if something would stop the run.

    Raises:
        ValueError: For every mistake of the user's; nothing is written before training begins.
    """
    require_cache(settings.cache)
    ranks = find_ranks()
    console = Console(quiet=not ranks.is_first)
    if settings.check_only:
        plan = _plan(settings, prepare_samples(settings, console), console)
        return 1 if plan.blockers else 0
    if settings.run_dir_is_fixed and settings.resume != AUTO and ranks.is_first:
        require_unused(settings.run_dir)  # before anything takes time
    if must_launch(settings.hardware, ranks):
        return launch("train", num_ranks=settings.hardware.num_ranks)
    # Before the ranks meet, since a mistake ends the others too.
    resume = plan_resume(settings) if ranks.is_first else None
    ranks.connect(settings.hardware.accelerator)
    require_same_settings(ranks, settings)
    resume = ranks.broadcast(resume)
    assert resume is not None
    for note in resume.notes:
        console.print(Text(note), soft_wrap=True)
    if not resume.is_finished:
        _run_rank(settings, resume, ranks, console)
    ranks.disconnect()
    return 0


def _run_rank(settings: Settings, resume: ResumePlan, ranks: Ranks, console: Console) -> None:
    """This rank's part of a run that is not done yet."""
    samples = first_on_each_node(ranks, lambda: prepare_samples(settings, console))
    require_same(ranks, describe_samples(samples), "data")
    plan = _plan(settings, samples, console)
    if plan.blockers:
        raise ValueError(f"the plan says that this run cannot work: {plan.blockers[0]}")
    described = ranks.broadcast(describe_run(settings, samples) if ranks.is_first else {})
    require_same_run(resume, described)
    train(settings, samples, plan, Origin(resume, described), ranks, console)


def _plan(settings: Settings, samples: Samples, console: Console) -> Plan:
    from aes.plan import render_plan

    plan = make_run_plan(settings, samples)
    render_plan(plan, console)
    return plan


@dataclass(frozen=True)
class Origin:
    """Where training begins.

    Attributes:
        resume: From which state.
        described: What decides the result, for checkpoints to keep.
    """

    resume: ResumePlan
    described: Mapping[str, Any]


def train(
    settings: Settings,
    samples: Samples,
    plan: Plan,
    origin: Origin,
    ranks: Ranks,
    console: Console,
) -> None:
    """Train, validate, save, and close with a card.

    The run directory is made only when the model is loaded, so that a mistake leaves none behind.
    """
    from lightning.pytorch import seed_everything

    from aes.training.fit import fit
    from aes.training.loggers import build_logger, close_logger

    # Adapter, optimiser states and two checkpoints of them, in float32.
    trainable = sum(count.trainable for count in plan.parameters.values())
    require_free_space(settings.run_dir, 4 * trainable * 7 + 64 * 2**20)
    grading = grading_facts(settings, samples, origin.described)
    seed_everything(settings.seed, verbose=False)
    module = build_module(settings, samples, plan=plan, ranks=ranks)
    data = build_data(settings, samples, ranks, module.vision_cache)
    seed_everything(settings.seed + ranks.rank, verbose=False)  # ranks drop out other inputs
    resume = origin.resume
    run_dir = _make_run_directory(settings, samples, plan, ranks, reuse=resume.reuses_run_dir)
    logger = None
    if ranks.is_first:
        logger = build_logger(
            settings.logger, run_dir=run_dir, config=settings.resolved, run_id=resume.wandb_id
        )
    baselines = measure_baselines(settings, samples)
    if settings.kernels.compile != "none":
        console.print("compiling the layers: the first step takes up to some minutes longer")
    with _told_where(run_dir, console):
        fitted = fit(
            module,
            data,
            trainer=settings.trainer,
            checkpoint=choose_checkpoint(settings),
            sample_table=settings.sample_table,
            hardware=settings.hardware,
            strategy=settings.strategy,
            ranks=ranks,
            start=resume.start,
            described=origin.described,
            logger=logger,
            run_dir=run_dir,
            baselines=baselines,
        )
    close_logger(logger)
    if module.vision_cache is not None:
        whose = "" if ranks.num_ranks == 1 else " of the first rank"
        closing = f"vision cache{whose}: {module.vision_cache.close()}"
        console.print(Text(closing), soft_wrap=True)
    finish(settings, module.model, grading, fitted, baselines, run_dir, ranks, console)


def _make_run_directory(
    settings: Settings, samples: Samples, plan: Plan, ranks: Ranks, *, reuse: bool
) -> Path:
    """The run directory with what is known before training; the first rank makes it."""
    from aes.plan import plan_to_dict
    from aes.training.checkpoint.folder import CheckpointFolder

    run_dir = settings.run_dir
    if ranks.is_first:
        if reuse:
            CheckpointFolder(run_dir / CHECKPOINTS_FOLDER, ranks=ranks, keep_last=1).claim()
            for name in LAST_FILES:  # by which a finished run is known
                (run_dir / name).unlink(missing_ok=True)
        run_dir = create_run_directory(settings, reuse=reuse)
        write_check(samples.reading, run_dir / CHECK_FILE)
        write_split(run_dir, samples)
        write_atomically(run_dir / PLAN_FILE, json.dumps(plan_to_dict(plan), indent=1).encode())
        keep_pages(settings, samples)
    run_dir = ranks.broadcast(run_dir)
    require_visible(ranks, run_dir, file=PLAN_FILE)
    return run_dir


@contextmanager
def _told_where(run_dir: Path, console: Console) -> Iterator[None]:
    """A run that Ctrl-C ends says what it leaves behind."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"what there is of the run is in {run_dir}", soft_wrap=True)
        raise
