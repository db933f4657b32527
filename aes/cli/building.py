"""Settings and samples -> what a training is made of: module, loaders, pages kept, floors.

Wiring only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aes.cli.layout import choose_attention, choose_batching, choose_kernels
from aes.cli.planning import plan_features
from aes.cli.samples import Samples
from aes.cli.settings import Settings
from aes.corpus.instructions import InstructionData
from aes.ranks import Ranks
from aes.rubric import Rubric

if TYPE_CHECKING:
    from aes.data.datamodule import EssayDataModule
    from aes.data.prepared import Prepared
    from aes.inference.engine import Engine
    from aes.model.vision_cache import VisionCache
    from aes.plan import Plan
    from aes.training.module import TuningModule
    from aes.training.validation import Validation


def build_module(settings: Settings, samples: Samples, *, plan: Plan, ranks: Ranks) -> TuningModule:
    """The model with its adapter, in an Engine, in a Grader, in the training module."""
    from aes.inference import VllmSpec
    from aes.inference.engine import Engine
    from aes.kernels.logits import choose_rows
    from aes.model.loading import load_model
    from aes.training.module import TuningModule

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
        renderer=samples.renderer,
        decoding=settings.decoding,
        precision=hardware.precision,
        spec=settings.engine,
    )
    return TuningModule(
        validation=build_validation(settings, engine, ranks),
        loss=settings.loss,
        optim=settings.optim,
        precision=hardware.precision,
        accumulation=plan.steps.accumulation,
        num_steps=plan.steps.total,
        logit_rows=choose_rows(settings.kernels.logit_rows, hardware.accelerator),
        vision_cache=build_vision_cache(settings, samples, engine.model, ranks),
        ranks=ranks,
        begins_as_base=getattr(settings.adapter, "init_from", None) is None,
    )


def build_validation(settings: Settings, engine: Engine, ranks: Ranks) -> Validation:
    """Judges what is held out: grades of essays, texts and labels of other data."""
    from aes.grading import Grader
    from aes.kernels.logits import choose_rows
    from aes.training.validation import GradingValidation, TextValidation

    hardware = settings.hardware
    if not isinstance(settings.data, InstructionData):
        return GradingValidation(Grader(engine=engine, rubric=settings.essay_rubric), ranks=ranks)
    return TextValidation(
        engine,
        labels=settings.data.labels,
        precision=hardware.precision,
        logit_rows=choose_rows(settings.kernels.logit_rows, hardware.accelerator),
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
            renderer=samples.renderer,
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
        renderer=samples.renderer,
        processor=samples.processor,
        global_batch_size=settings.global_batch_size,
        micro_batch_size=settings.hardware.micro_batch_size,
        batching=choose_batching(settings),
        pins_memory=settings.hardware.accelerator == "cuda",
        decoding_batch_size=settings.decoding.batch_size,
        num_workers=settings.hardware.num_workers,
        seed=settings.seed,
        validates_texts=settings.has_texts,
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
                samples.renderer.save(page, folder, f"{example.id}-{number}")


def measure_baselines(settings: Settings, samples: Samples) -> dict[str, float]:
    """Graders that read nothing, on the same essays; none for essays that came as images."""
    from aes.metrics.baseline import baseline_metrics

    if settings.has_texts or not len(samples.val.rows):
        return {}
    rubric = settings.essay_rubric
    train_lengths, train_gold = _lengths_and_totals(samples.train, rubric)
    lengths, gold = _lengths_and_totals(samples.val, rubric)
    if not all((*train_lengths, *lengths)):
        return {}
    return baseline_metrics(
        train_lengths=train_lengths,
        train_gold=train_gold,
        lengths=lengths,
        gold=gold,
        minimum=rubric.minimum_total,
        maximum=rubric.maximum_total,
    )


def _lengths_and_totals(part: Prepared, rubric: Rubric) -> tuple[list[int], list[int]]:
    pairs = [(e.num_chars, int(rubric.total(e.scores))) for e in part.examples()]
    return [length for length, _ in pairs], [total for _, total in pairs]
