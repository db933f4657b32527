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

from aes.cli.run_directory import (
    create_run_directory,
    require_cache,
    require_free_space,
    require_unused,
)
from aes.cli.samples import (
    CHECK_FILE,
    Samples,
    make_run_plan,
    prepare_samples,
    write_split,
)
from aes.cli.settings import Settings
from aes.corpus import SampleCorpus, write_check
from aes.files import write_atomically
from aes.report.card import ClosingCard, print_card

if TYPE_CHECKING:
    from aes.data.datamodule import EssayDataModule
    from aes.plan import Plan
    from aes.training.fit import Fitted
    from aes.training.module import GraderModule

PLAN_FILE = "plan.json"


def run(settings: Settings) -> int:
    """Check the data, plan, and unless only that was asked for, train.

    Returns:
        Exit status: 0, or 1 if something would stop the run.

    Raises:
        ValueError: For every mistake of the user's; nothing is written before training begins.
    """
    console = Console()
    require_cache(settings.cache)
    if settings.run_dir_is_fixed and not settings.check_only:
        require_unused(settings.run_dir)
    samples = prepare_samples(settings, console)
    plan = make_run_plan(settings, samples)
    from aes.plan import render_plan

    render_plan(plan, console)
    if plan.blockers:
        if settings.check_only:
            return 1
        raise ValueError(f"the plan says that this run cannot work: {plan.blockers[0]}")
    if not settings.check_only:
        train(settings, samples, plan, console)
    return 0


def train(settings: Settings, samples: Samples, plan: Plan, console: Console) -> None:
    """Train, validate, save, and close with a card.

    The run directory is made only when the model is loaded, so that a mistake leaves none behind.
    """
    from lightning.pytorch import seed_everything

    from aes.plan import plan_to_dict
    from aes.training.fit import fit
    from aes.training.loggers import build_logger, close_logger

    seed_everything(settings.seed, verbose=False)
    # Adapter, optimiser states and two checkpoints of them, in float32.
    trainable = sum(count.trainable for count in plan.parameters.values())
    require_free_space(settings.run_dir, 4 * trainable * 7 + 64 * 2**20)
    module = build_module(settings, samples, num_steps=plan.steps.total)
    data = build_data(settings, samples)
    run_dir = create_run_directory(settings)
    write_check(samples.reading, run_dir / CHECK_FILE)
    write_split(run_dir, samples)
    write_atomically(run_dir / PLAN_FILE, json.dumps(plan_to_dict(plan), indent=1).encode())
    _keep_pages(settings, samples)
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
            logger=logger,
            run_dir=run_dir,
            baselines=baselines,
        )
    close_logger(logger)
    _finish(settings, module.model, samples, fitted, baselines, run_dir, console)


@contextmanager
def _told_where(run_dir: Path, console: Console) -> Iterator[None]:
    """A run that Ctrl-C ends says what it leaves behind."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"what there is of the run is in {run_dir}", soft_wrap=True)
        raise


def build_module(settings: Settings, samples: Samples, *, num_steps: int) -> GraderModule:
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
    )


def build_data(settings: Settings, samples: Samples) -> EssayDataModule:
    """Loaders over the tokenised samples."""
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
    console: Console,
) -> None:
    """Save the adapter and the plot, and print the card."""
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
