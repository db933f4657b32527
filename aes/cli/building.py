"""Settings and samples -> what a training is made of: module, loaders, pages kept, floors.

Wiring only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aes.cli.samples import Samples
from aes.cli.settings import Settings
from aes.ranks import Ranks

if TYPE_CHECKING:
    from aes.data.datamodule import EssayDataModule
    from aes.training.module import GraderModule


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
            gradient_checkpointing=settings.trainer.gradient_checkpointing not in ("none", "auto"),
            seed=settings.seed,
            strategy=settings.strategy,
            ranks=ranks,
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


def keep_pages(settings: Settings, samples: Samples) -> None:
    """Write every page as the model sees it to ``page.save_dir``, where that is set."""
    folder = settings.page.save_dir
    if folder is None:
        return
    for part in samples.parts.values():
        for example in part.examples():
            for number, page in enumerate(example.pages, start=1):
                samples.builder.renderer.save(page, folder, f"{example.id}-{number}")


def measure_baselines(settings: Settings, samples: Samples) -> dict[str, float]:
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
