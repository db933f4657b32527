"""Settings and samples -> what a training is made of: module, loaders, pages kept, floors.

Wiring only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aes.cli.layout import choose_attention, choose_batching, choose_kernels
from aes.cli.samples import Samples, plan_features
from aes.cli.settings import Settings
from aes.ranks import Ranks

if TYPE_CHECKING:
    from aes.data.datamodule import EssayDataModule
    from aes.model.vision_cache import VisionCache
    from aes.plan import Plan
    from aes.training.module import GraderModule


def build_module(settings: Settings, samples: Samples, *, plan: Plan, ranks: Ranks) -> GraderModule:
    """The model with its adapter, in an Engine, in a Grader, in the training module."""
    from aes.grading import Grader
    from aes.inference import VllmSpec
    from aes.inference.engine import Engine
    from aes.kernels.logits import choose_rows
    from aes.model.loading import load_model
    from aes.training.module import GraderModule

    hardware = settings.hardware
    assert not isinstance(settings.engine, VllmSpec), "it cannot train"
    # Nodes may have unlike memory, but ranks that gather weights must recompute alike.
    checkpointing = ranks.broadcast(plan.checkpointing)
    engine = Engine(
        model=load_model(
            settings.model,
            settings.adapter,
            cache=settings.cache,
            precision=hardware.precision,
            accelerator=hardware.accelerator,
            gradient_checkpointing=checkpointing.policy,
            gradient_checkpointing_every=checkpointing.every,
            seed=settings.seed,
            strategy=settings.strategy,
            attention=choose_attention(settings),
            kernels=choose_kernels(settings),
            ranks=ranks,
        ),
        processor=samples.processor,
        renderer=samples.builder.renderer,
        decoding=settings.decoding,
        precision=hardware.precision,
        spec=settings.engine,
    )
    return GraderModule(
        grader=Grader(engine=engine, rubric=settings.rubric),
        loss=settings.loss,
        optim=settings.optim,
        precision=hardware.precision,
        accumulation=plan.steps.accumulation,
        num_steps=plan.steps.total,
        logit_rows=choose_rows(settings.kernels.logit_rows, hardware.accelerator),
        vision_cache=build_vision_cache(settings, samples, engine.model, ranks),
        ranks=ranks,
    )


def build_vision_cache(
    settings: Settings, samples: Samples, model: Any, ranks: Ranks
) -> VisionCache | None:
    """What keeps pages' features, where they can be used again.

    Raises:
        ValueError: If they were asked for and cannot.
    """
    from aes.data.feature_files import DiskStore
    from aes.data.feature_store import FeatureStore, MemoryStore
    from aes.model.vision_cache import VisionCache, tower_fingerprint

    kept = plan_features(settings, samples, model)
    if kept.place == "none":
        return None
    store: FeatureStore = MemoryStore(len(samples.train.rows), max_bytes=kept.max_bytes)
    if kept.place == "disk":
        store = DiskStore(
            settings.cache / "vision",
            fingerprint=tower_fingerprint(
                model,
                precision=settings.hardware.precision,
                fused_ops=settings.kernels.fused_ops,
                image_processor=samples.processor.image_processor,
            ),
            renderer=samples.builder.renderer,
            max_bytes=kept.max_bytes,
            expected_bytes=kept.num_bytes,
            num_ranks=ranks.num_ranks,
        )
    return VisionCache(store)


def build_data(
    settings: Settings, samples: Samples, ranks: Ranks, vision_cache: VisionCache | None = None
) -> EssayDataModule:
    """Loaders over this rank's share of the tokenised samples.

    Args:
        vision_cache: Whose pages need not be drawn.
    """
    from aes.data.datamodule import EssayDataModule

    return EssayDataModule(
        train=samples.train,
        val=samples.val,
        renderer=samples.builder.renderer,
        processor=samples.processor,
        global_batch_size=settings.global_batch_size,
        micro_batch_size=settings.hardware.micro_batch_size,
        batching=choose_batching(settings),
        pins_memory=settings.hardware.accelerator == "cuda",
        decoding_batch_size=settings.decoding.batch_size,
        num_workers=settings.hardware.num_workers,
        seed=settings.seed,
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
        reader=None if vision_cache is None else vision_cache.store.reader,
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
