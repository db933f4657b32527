"""A whole training on the nano, with as little data as shows what is to be shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aes.data import BatchingSpec
from aes.data.datamodule import EssayDataModule
from aes.data.dataset import PageDataset
from aes.data.prepare import prepare
from aes.data.prepared import Prepared
from aes.data.processor import Processor
from aes.data.sampler import Pick
from aes.grading import Grader
from aes.hardware import HardwareSpec, StrategySpec
from aes.inference import DecodingSpec, HfEngineSpec
from aes.inference.engine import Engine
from aes.kernels.attention import AttentionName, use_attention
from aes.model import LoraSpec
from aes.model.vision_cache import VisionCache
from aes.prompt.build import ExampleBuilder
from aes.ranks import ALONE
from aes.records import Essay
from aes.rubric import Rubric
from aes.training import (
    CheckpointSpec,
    LossSpec,
    OptimSpec,
    SampleTableSpec,
    TrainerSpec,
)
from aes.training.checkpoint import Resumable
from aes.training.fit import Fitted, fit
from aes.training.module import TuningModule
from aes.training.validation import GradingValidation


class Poisoned:
    """The training samples, one of them with a page that is not a number."""

    def __init__(self, dataset: PageDataset, name: str) -> None:
        self.dataset, self.name = dataset, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, pick: Pick) -> dict[str, Any]:
        item = self.dataset[pick]
        if self.dataset.rows[pick.index]["id"] == self.name:
            item["patches"] = np.full_like(item["patches"], np.nan)
        return item


@pytest.fixture(scope="session")
def prepared(
    essays: tuple[Essay, ...],
    builder: ExampleBuilder,
    processor: Processor,
    session_cache: Path,
) -> tuple[Prepared, Prepared]:
    """Ten essays to train on, two to validate on."""
    return tuple(  # type: ignore[return-value]
        prepare(
            part,
            builder=builder,
            processor=processor,
            max_tokens=2048,
            on_overlong="error",
            cache=session_cache,
            label=label,
        )
        for label, part in (("train", essays[:10]), ("val", essays[10:]))
    )


@pytest.fixture(scope="session")
def make_training(
    prepared: tuple[Prepared, Prepared],
    builder: ExampleBuilder,
    processor: Processor,
    small_rubric: Rubric,
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_batching: Callable[..., BatchingSpec],
    read_conf: Callable[..., dict[str, Any]],
) -> Callable[..., tuple[TuningModule, Callable[..., Fitted]]]:
    """A module, and a function that trains it into a folder; of steps of 4 unless told."""

    def make(
        *,
        micro: int = 2,
        global_batch_size: int = 4,
        optim: dict[str, Any] | None = None,
        loss: Any = "valid_digits",
        val: Prepared | None = None,
        dropout: float = 0.0,
        num_workers: int = 0,
        poisoned: str | None = None,
        batching: BatchingSpec | None = None,
        attention: AttentionName = "varlen",
        vision_cache: VisionCache | None = None,
    ) -> tuple[TuningModule, Callable[..., Fitted]]:
        model = load_nano(make_lora(modules_to_save=("visual.merger",), dropout=dropout))
        use_attention(model, attention)
        engine = Engine(
            model=model,
            processor=processor,
            renderer=builder.renderer,
            decoding=DecodingSpec(
                **read_conf("decoding/expected", batch_size=2, max_feedback_tokens=2)
            ),
            precision="fp32",
            spec=HfEngineSpec(**read_conf("engine/hf")),
        )
        data = EssayDataModule(
            train=prepared[0],
            val=val or prepared[1],
            renderer=builder.renderer,
            processor=processor,
            global_batch_size=global_batch_size,
            micro_batch_size=micro,
            batching=batching or make_batching(),
            decoding_batch_size=2,
            num_workers=num_workers,
            seed=1,
            reader=None if vision_cache is None else vision_cache.store.reader,
        )
        module = TuningModule(
            validation=GradingValidation(Grader(engine=engine, rubric=small_rubric)),
            loss=LossSpec(name=loss, feedback_weight=1.0),
            optim=OptimSpec(**read_conf("optim/adamw", **({"lr": 1e-3} | (optim or {})))),
            precision="fp32",
            accumulation=data.sampler.accumulation,
            num_steps=6,
            vision_cache=vision_cache,
        )
        if poisoned is not None:
            data.dataset = Poisoned(data.dataset, poisoned)  # type: ignore[assignment]

        def run(
            run_dir: Path,
            *,
            every_n_train_steps: int | None = None,
            save_each_epoch: bool = True,
            keep_last: int = 2,
            start: Resumable | None = None,
            **changes: Any,
        ) -> Fitted:
            trainer = {"max_epochs": 2, "log_every_n_steps": 1} | changes
            torch.manual_seed(1)
            return fit(
                module,
                data,
                trainer=TrainerSpec(**read_conf("trainer/default", **trainer)),
                checkpoint=CheckpointSpec(
                    every_n_train_steps=every_n_train_steps,
                    save_each_epoch=save_each_epoch,
                    keep_last=keep_last,
                    monitor="val/qwk/total",
                ),
                sample_table=SampleTableSpec(num_examples=1),
                hardware=HardwareSpec(**read_conf("hardware/cpu", num_workers=0)),
                strategy=StrategySpec(name="single"),
                ranks=ALONE,
                logger=None,
                run_dir=run_dir,
                baselines={"baseline/qwk": 0.25},
                described={"optim.lr": 0.001},
                start=start,
            )

        return module, run

    return make
