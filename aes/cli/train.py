"""``python train.py``: from settings to a finished run. Wiring only; the work is done elsewhere."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from aes.cli.agreement import (
    first_on_each_node,
    require_same,
    require_same_settings,
    require_visible,
)
from aes.cli.launch import launch, must_launch
from aes.cli.run_directory import (
    create_run_directory,
    require_cache,
    require_free_space,
    require_unused,
)
from aes.cli.samples import (
    CHECK_FILE,
    Samples,
    describe_samples,
    make_run_plan,
    prepare_samples,
    write_split,
)
from aes.cli.settings import Settings
from aes.corpus import SampleCorpus, write_check
from aes.files import write_atomically
from aes.ranks import Ranks, find_ranks
from aes.report.card import ClosingCard, print_card

if TYPE_CHECKING:
    from aes.data.datamodule import EssayDataModule
    from aes.plan import Plan
    from aes.training.fit import Fitted
    from aes.training.module import GraderModule

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
    if must_launch(settings.hardware, ranks):
        return launch("train", num_ranks=settings.hardware.num_ranks)
    if settings.run_dir_is_fixed and ranks.is_first:
        require_unused(settings.run_dir)
    ranks.connect(settings.hardware.accelerator)
    require_same_settings(ranks, settings)
    samples = first_on_each_node(ranks, lambda: prepare_samples(settings, console))
    require_same(ranks, describe_samples(samples), "data")
    plan = _plan(settings, samples, console)
    if plan.blockers:
        raise ValueError(f"the plan says that this run cannot work: {plan.blockers[0]}")
    train(settings, samples, plan, ranks, console)
    ranks.disconnect()
    return 0


def _plan(settings: Settings, samples: Samples, console: Console) -> Plan:
    from aes.plan import render_plan

    plan = make_run_plan(settings, samples)
    render_plan(plan, console)
    return plan


def train(settings: Settings, samples: Samples, plan: Plan, ranks: Ranks, console: Console) -> None:
    """Train, validate, save, and close with a card.

    The run directory is made only when the model is loaded, so that a mistake leaves none behind.
    """
    from lightning.pytorch import seed_everything

    from aes.training.fit import fit
    from aes.training.loggers import build_logger, close_logger

    # Adapter, optimiser states and two checkpoints of them, in float32.
    trainable = sum(count.trainable for count in plan.parameters.values())
    require_free_space(settings.run_dir, 4 * trainable * 7 + 64 * 2**20)
    seed_everything(settings.seed, verbose=False)
    module = build_module(settings, samples, num_steps=plan.steps.total, ranks=ranks)
    data = build_data(settings, samples, ranks)
    seed_everything(settings.seed + ranks.rank, verbose=False)  # ranks drop out other inputs
    run_dir = _make_run_directory(settings, samples, plan, ranks)
    logger = None
    if ranks.is_first:
        logger = build_logger(settings.logger, run_dir=run_dir, config=settings.resolved)
    baselines = _baselines(settings, samples)
    with _told_where(run_dir, console):
        fitted = fit(
            module,
            data,
            trainer=settings.trainer,
            checkpoint=settings.checkpoint,
            sample_table=settings.sample_table,
            hardware=settings.hardware,
            strategy=settings.strategy,
            ranks=ranks,
            logger=logger,
            run_dir=run_dir,
            baselines=baselines,
        )
    close_logger(logger)
    _finish(settings, module.model, samples, fitted, baselines, run_dir, ranks, console)


def _make_run_directory(settings: Settings, samples: Samples, plan: Plan, ranks: Ranks) -> Path:
    """The run directory with what is known before training; the first rank makes it."""
    from aes.plan import plan_to_dict

    run_dir = settings.run_dir
    if ranks.is_first:
        run_dir = create_run_directory(settings)
        write_check(samples.reading, run_dir / CHECK_FILE)
        write_split(run_dir, samples)
        write_atomically(run_dir / PLAN_FILE, json.dumps(plan_to_dict(plan), indent=1).encode())
        _keep_pages(settings, samples)
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


def build_module(
    settings: Settings, samples: Samples, *, num_steps: int, ranks: Ranks
) -> GraderModule:
    """The model with its adapter, in an Engine, in a Grader, in the training module."""
    from aes.grading import Grader
    from aes.hardware import accumulation_steps
    from aes.inference.engine import Engine
    from aes.model.loading import load_model
    from aes.training.module import GraderModule

    hardware = settings.hardware
    engine = Engine(
        model=load_model(
            settings.model,
            settings.adapter,
            cache=settings.cache,
            precision=hardware.precision,
            accelerator=hardware.accelerator,
            gradient_checkpointing=settings.trainer.gradient_checkpointing,
            seed=settings.seed,
        ),
        processor=samples.processor,
        renderer=samples.builder.renderer,
        decoding=settings.decoding,
        precision=hardware.precision,
    )
    return GraderModule(
        grader=Grader(engine=engine, rubric=settings.rubric),
        loss=settings.loss,
        optim=settings.optim,
        precision=hardware.precision,
        accumulation=accumulation_steps(
            global_batch_size=settings.global_batch_size,
            micro_batch_size=hardware.micro_batch_size,
            num_ranks=hardware.num_ranks,
        ),
        num_steps=num_steps,
        ranks=ranks,
    )


def build_data(settings: Settings, samples: Samples, ranks: Ranks) -> EssayDataModule:
    """Loaders over this rank's share of the tokenised samples."""
    from aes.data.datamodule import EssayDataModule

    return EssayDataModule(
        train=samples.train,
        val=samples.val,
        renderer=samples.builder.renderer,
        processor=samples.processor,
        global_batch_size=settings.global_batch_size,
        micro_batch_size=settings.hardware.micro_batch_size,
        decoding_batch_size=settings.decoding.batch_size,
        num_workers=settings.hardware.num_workers,
        seed=settings.seed,
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
    )


def _keep_pages(settings: Settings, samples: Samples) -> None:
    """Write every page as the model sees it to ``page.save_dir``, where that is set."""
    folder = settings.page.save_dir
    if folder is None:
        return
    for part in samples.parts.values():
        for example in part.examples():
            for number, page in enumerate(example.pages, start=1):
                samples.builder.renderer.save(page, folder, f"{example.id}-{number}")


def _baselines(settings: Settings, samples: Samples) -> dict[str, float]:
    """Graders that read nothing, on the same essays; none for essays that came as images."""
    from aes.metrics.baseline import baseline_metrics

    train, val = samples.train.examples(), samples.val.examples()
    if not val or not all(example.num_chars for example in (*train, *val)):
        return {}
    total = settings.rubric.total
    return baseline_metrics(
        train_lengths=[example.num_chars for example in train],
        train_gold=[int(total(example.scores)) for example in train],
        lengths=[example.num_chars for example in val],
        gold=[int(total(example.scores)) for example in val],
        minimum=settings.rubric.minimum_total,
        maximum=settings.rubric.maximum_total,
    )


def _finish(
    settings: Settings,
    model: Any,
    samples: Samples,
    fitted: Fitted,
    baselines: dict[str, float],
    run_dir: Path,
    ranks: Ranks,
    console: Console,
) -> None:
    """Save the adapter, for which all ranks are needed, and the plot, and print the card."""
    from aes.model.loading import model_folder
    from aes.report.plots import plot_training_loss
    from aes.training.saving import save_trained

    base = settings.model.path or str(model_folder(settings.model, settings.cache))
    grading = {
        "page": asdict(settings.page),
        "ranges": settings.rubric.ranges,
        "asks_feedback": any(example.asks_feedback for example in samples.train.examples()),
    }
    save_trained(model, run_dir, base=base, grading=grading)
    if not ranks.is_first:
        return
    plot_training_loss(run_dir / "metrics.jsonl", run_dir / "training_loss.png")
    print_card(
        console,
        ClosingCard(
            run_dir=run_dir,
            metrics=fitted.metrics,
            baselines=baselines,
            groups=fitted.groups,
            commands=_next_commands(settings, run_dir),
            is_sample=isinstance(settings.data, SampleCorpus),
        ),
    )


def _next_commands(settings: Settings, run_dir: Path) -> Sequence[str]:
    """Commands that work from here."""
    run = shlex.quote(str(run_dir))
    if isinstance(settings.data, SampleCorpus):
        return (
            f"python evaluate.py run={run} baseline=true",
            "python train.py page=squared_paper seed=2",
            "python train.py check_only=true model=qwen3_vl_8b hardware=h800x1",
        )
    predict = f"python predict.py run={run} input=FOLDER output=grades.jsonl"
    if settings.data.test_fraction > 0:
        return (f"python evaluate.py run={run} baseline=true", predict)
    root = shlex.quote(str(getattr(settings.data, "root", "DIR")))
    held_out = "data.on_problem=drop data.val_fraction=0.1 data.test_fraction=0.1"
    plan = f"python train.py experiment=aes_h800x1 data.root={root} {held_out} check_only=true"
    return (predict, plan)
