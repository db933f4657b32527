"""Settings and tokenised samples -> the plan of a run. Wiring only."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from aes.cli.layout import choose_batching, choose_kernels
from aes.cli.samples import Samples
from aes.cli.settings import Settings

if TYPE_CHECKING:
    from aes.model.vision_cache import KeptFeatures
    from aes.plan import MeasuredData, Plan


def make_run_plan(settings: Settings, samples: Samples) -> Plan:
    """What the run will cost and whether it fits."""
    import psutil

    from aes.model.loading import build_on_meta
    from aes.plan import PlannedRun, Schedule, count_parameters, make_plan

    trainer, checkpoint = settings.trainer, settings.checkpoint
    on_cpu = settings.hardware.accelerator == "cpu"
    meta = build_on_meta(settings.model, settings.adapter)
    page_features = plan_features(settings, samples, meta)
    return make_plan(
        PlannedRun(
            model=settings.model,
            adapter=settings.adapter,
            parameters=count_parameters(meta),
            hardware=settings.hardware,
            strategy=settings.strategy,
            data=_measure(settings, samples),
            schedule=Schedule(
                max_epochs=trainer.max_epochs,
                max_steps=trainer.max_steps,
                val_every_n_epochs=trainer.val_every_n_epochs,
                every_n_train_steps=checkpoint.every_n_train_steps,
                save_each_epoch=checkpoint.save_each_epoch,
                warmup_ratio=settings.optim.warmup_ratio,
                course=settings.optim.schedule,
            ),
            ranges=settings.rubric.ranges,
            global_batch_size=settings.global_batch_size,
            batching=choose_batching(settings),
            validation_batch_size=settings.decoding.batch_size,
            lr=settings.optim.lr,
            checkpointing=trainer.gradient_checkpointing,
            checkpointing_every=trainer.gradient_checkpointing_every,
            kernels=choose_kernels(settings),
            machine_memory_gib=psutil.virtual_memory().total / 2**30 if on_cpu else None,
            page_features=page_features,
        )
    )


def _measure(settings: Settings, samples: Samples) -> MeasuredData:
    """The data as it goes into training, with what was left out."""
    from aes.plan import Lengths, MeasuredData

    parts = samples.parts
    glyphs = [px for part in parts.values() for px in part.column("glyph_px") if px]
    counts = samples.reading.counts
    # Each dropped essay once, under the first thing that is wrong with it.
    reasons = {p.id: p.code for p in reversed(samples.reading.problems) if p.action == "dropped"}
    dropped = dict(Counter(reasons.values()))
    others = {
        "overlong": sum(len(part.dropped) for part in parts.values()),
        "max_samples": samples.num_left_out,
    }
    return MeasuredData(
        train=Lengths.of(samples.train),
        validation=Lengths.of(samples.val),
        test=Lengths.of(samples.test),
        essays={
            "read": counts["read"],
            "kept": counts["kept"],
            "shrunk": sum(len(part.shrunk) for part in parts.values()),
        },
        dropped=dropped | {reason: number for reason, number in others.items() if number},
        overlong={id_: samples.train.overlong[id_] for id_ in samples.train.dropped},
        glyph_px=(min(glyphs), max(glyphs)) if glyphs else None,
        max_tokens=settings.data.max_tokens,
        unit="records" if settings.has_texts else "essays",
    )


def plan_features(settings: Settings, samples: Samples, model: Any) -> KeptFeatures:
    """What is kept of pages' features.

    Args:
        model: With its adapter; may be on the meta device.

    Raises:
        ValueError: If a place was asked for that would be of no use.
    """
    from aes.model.vision_cache import choose_place

    return choose_place(
        settings.vision_cache,
        model,
        strategy=settings.strategy,
        precision=settings.hardware.precision,
        num_page_tokens=sum(samples.train.column("num_image_tokens")),
        max_epochs=settings.trainer.max_epochs,
    )
