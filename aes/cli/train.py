"""``python train.py``: from settings to a finished run. Wiring only; the work is done elsewhere."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from aes.cli.quiet import quiet_libraries
from aes.cli.run_directory import create_run_directory, require_free_space
from aes.cli.settings import Settings
from aes.corpus import Reading, SampleCorpus, write_check
from aes.report.card import ClosingCard, print_card
from aes.report.check_table import print_check

if TYPE_CHECKING:
    from aes.data.prepare import Prepared
    from aes.data.processor import Processor
    from aes.plan import Plan
    from aes.prompt.build import ExampleBuilder
    from aes.training.fit import Fitted

CHECK_FILE, PLAN_FILE = "check.json", "plan.json"


@dataclass(frozen=True)
class Samples:
    """The tokenised splits, and what is needed to make more of their kind."""

    reading: Reading
    builder: ExampleBuilder
    processor: Processor
    train: Prepared
    val: Prepared
    test: Prepared

    @property
    def parts(self) -> dict[str, Prepared]:
        """The splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def run(settings: Settings) -> int:
    """Check the data, plan, and unless only that was asked for, train.

    Returns:
        Exit status: 0, or 1 if something would stop the run.

    Raises:
        ValueError: For every mistake of the user's; nothing is written before training begins.
    """
    quiet_libraries()
    console = Console()
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


def prepare_samples(settings: Settings, console: Console) -> Samples:
    """Read, check, split and tokenise the data.

    Raises:
        ValueError: If the data stops the run, or leaves nothing to train on.
    """
    from aes.data.prepare import prepare
    from aes.data.processor import Processor
    from aes.model.loading import tokenizer_folder
    from aes.prompt.build import ExampleBuilder

    builder = ExampleBuilder(
        rubric=settings.rubric, prompt=settings.prompt, page=settings.page, seed=settings.seed
    )
    reading = settings.data.read(
        find_undrawable=builder.renderer.missing_characters,
        open_page=builder.renderer.open,
        ranges=settings.rubric.ranges,
    )
    _show_check(console, reading)
    split = settings.data.split(reading.essays, seed=settings.seed)
    processor = Processor(
        tokenizer_folder(settings.model, settings.cache, weights=not settings.check_only),
        ranges=settings.rubric.ranges,
        min_pixels=settings.model.min_pixels,
        max_pixels=settings.model.max_pixels,
    )
    parts = {
        label: prepare(
            essays,
            builder=builder,
            processor=processor,
            max_tokens=settings.data.max_tokens,
            on_overlong=settings.data.on_overlong,
            cache=settings.cache,
            label=f"preparing {label}",
        )
        for label, essays in (("train", split.train), ("val", split.val), ("test", split.test))
    }
    return Samples(reading, builder, processor, **parts)


def _show_check(console: Console, reading: Reading) -> None:
    print_check(
        console, reading.problems, reading.counts, full_list=f"{CHECK_FILE} in the run lists all"
    )
    if reading.stops_run:
        raise ValueError(
            f"the data has {len(reading.problems)} problems, listed above; mend them, or set "
            "data.on_problem=drop (leave out what is wrong) or keep"
        )


def make_run_plan(settings: Settings, samples: Samples) -> Plan:
    """What the run will cost and whether it fits."""
    import psutil

    from aes.model.loading import build_on_meta
    from aes.plan import Lengths, MeasuredData, Schedule, count_parameters, make_plan

    parts = samples.parts
    glyphs = [px for part in parts.values() for px in part.column("glyph_px") if px]
    counts = samples.reading.counts
    # Each dropped essay once, under the first thing that is wrong with it.
    reasons = {p.id: p.code for p in reversed(samples.reading.problems) if p.action == "dropped"}
    dropped = dict(Counter(reasons.values()))
    overlong = sum(len(part.dropped) for part in parts.values())
    data = MeasuredData(
        train=Lengths.of(samples.train),
        validation=Lengths.of(samples.val),
        test=Lengths.of(samples.test),
        essays={
            "read": counts["read"],
            "kept": counts["kept"],
            "shrunk": sum(len(part.shrunk) for part in parts.values()),
        },
        dropped=dropped | ({"overlong": overlong} if overlong else {}),
        glyph_px=(min(glyphs), max(glyphs)) if glyphs else None,
        max_tokens=settings.data.max_tokens,
    )
    trainer, checkpoint = settings.trainer, settings.checkpoint
    on_cpu = settings.hardware.accelerator == "cpu"
    return make_plan(
        model=settings.model,
        adapter=settings.adapter,
        parameters=count_parameters(build_on_meta(settings.model, settings.adapter)),
        hardware=settings.hardware,
        strategy=settings.strategy,
        data=data,
        schedule=Schedule(
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            val_every_n_epochs=trainer.val_every_n_epochs,
            every_n_train_steps=checkpoint.every_n_train_steps,
            save_each_epoch=checkpoint.save_each_epoch,
            warmup_ratio=settings.optim.warmup_ratio,
        ),
        global_batch_size=settings.global_batch_size,
        validation_batch_size=settings.decoding.batch_size,
        lr=settings.optim.lr,
        checkpointing=trainer.gradient_checkpointing,
        machine_memory_gib=psutil.virtual_memory().total / 2**30 if on_cpu else None,
    )


def train(settings: Settings, samples: Samples, plan: Plan, console: Console) -> None:
    """Train, validate, save, and close with a card.

    The run directory is made only when the model is loaded, so that a mistake leaves none behind.
    """
    from lightning.pytorch import seed_everything

    from aes.data.datamodule import EssayDataModule
    from aes.grading import Grader
    from aes.hardware import accumulation_steps
    from aes.inference.engine import Engine
    from aes.model.loading import load_model
    from aes.plan import plan_to_dict
    from aes.training.fit import fit
    from aes.training.loggers import build_logger, close_logger
    from aes.training.module import GraderModule

    seed_everything(settings.seed, verbose=False)
    hardware = settings.hardware
    # Adapter, optimiser states and two checkpoints of them, in float32.
    trainable = sum(count.trainable for count in plan.parameters.values())
    require_free_space(settings.run_dir, 4 * trainable * 7 + 64 * 2**20)
    model = load_model(
        settings.model,
        settings.adapter,
        cache=settings.cache,
        precision=hardware.precision,
        accelerator=hardware.accelerator,
        gradient_checkpointing=settings.trainer.gradient_checkpointing,
        seed=settings.seed,
    )
    engine = Engine(
        model=model,
        processor=samples.processor,
        renderer=samples.builder.renderer,
        decoding=settings.decoding,
        precision=hardware.precision,
    )
    module = GraderModule(
        grader=Grader(engine=engine, rubric=settings.rubric),
        loss=settings.loss,
        optim=settings.optim,
        precision=hardware.precision,
        accumulation=accumulation_steps(
            global_batch_size=settings.global_batch_size,
            micro_batch_size=hardware.micro_batch_size,
            num_ranks=hardware.num_ranks,
        ),
        num_steps=plan.steps.total,
    )
    data = EssayDataModule(
        train=samples.train,
        val=samples.val,
        renderer=samples.builder.renderer,
        processor=samples.processor,
        global_batch_size=settings.global_batch_size,
        micro_batch_size=hardware.micro_batch_size,
        decoding_batch_size=settings.decoding.batch_size,
        num_workers=hardware.num_workers,
        seed=settings.seed,
    )
    run_dir = create_run_directory(settings)
    write_check(samples.reading, run_dir / CHECK_FILE)
    (run_dir / PLAN_FILE).write_text(json.dumps(plan_to_dict(plan), indent=1), encoding="utf-8")
    logger = build_logger(settings.logger, run_dir=run_dir, config=settings.resolved)
    baselines = _baselines(settings, samples)
    fitted = fit(
        module,
        data,
        trainer=settings.trainer,
        checkpoint=settings.checkpoint,
        sample_table=settings.sample_table,
        hardware=hardware,
        logger=logger,
        run_dir=run_dir,
        baselines=baselines,
    )
    close_logger(logger)
    _finish(settings, model, fitted, baselines, run_dir, console)


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
    fitted: Fitted,
    baselines: dict[str, float],
    run_dir: Path,
    console: Console,
) -> None:
    """Save the adapter and the plot, and print the card."""
    from aes.report.plots import plot_training_loss
    from aes.training.saving import save_trained

    base = settings.model.path or "random weights of conf/model"
    save_trained(model, run_dir, base=base, page=asdict(settings.page))
    plot_training_loss(run_dir / "metrics.jsonl", run_dir / "training_loss.png")
    print_card(
        console,
        ClosingCard(
            run_dir=run_dir,
            metrics=fitted.metrics,
            baselines=baselines,
            groups=fitted.groups,
            commands=_next_commands(settings),
            is_sample=isinstance(settings.data, SampleCorpus),
        ),
    )


def _next_commands(settings: Settings) -> Sequence[str]:
    """Commands that work from here."""
    if isinstance(settings.data, SampleCorpus):
        return (
            "python train.py page=squared_paper seed=2",
            "python train.py data=aes_dataset data.root=DIR",
            "python train.py check_only=true model=qwen3_vl_8b hardware=h800x1",
        )
    root = shlex.quote(str(getattr(settings.data, "root", "DIR")))
    return (f"python train.py experiment=aes_h800x1 data.root={root} check_only=true",)
