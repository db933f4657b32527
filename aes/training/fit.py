"""Runs a training: builds Lightning's Trainer around the module, leaves a finished run behind."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

from aes.data.datamodule import EssayDataModule
from aes.hardware import HardwareSpec, StrategySpec
from aes.metrics.groups import by_group
from aes.metrics.results import Agreement
from aes.ranks import Ranks
from aes.records import Marked
from aes.report.samples import write_samples_html
from aes.training.metrics_log import MetricsLog, write_metrics_json
from aes.training.module import GraderModule
from aes.training.progress import ProgressReport
from aes.training.sample_table import log_samples, sample_rows
from aes.training.strategies import build_strategy
from aes.training.spec import CheckpointSpec, SampleTableSpec, TrainerSpec
from aes.training.validation_log import ValidationLog, validation_metrics


@dataclass(frozen=True)
class Fitted:
    """What a training ended with.

    Attributes:
        metrics: Last validation metrics by name, e.g. ``val/qwk/total``.
        groups: Agreement within each kind of degradation; empty without any.
        num_steps: Optimiser steps done.
    """

    metrics: Mapping[str, float]
    groups: Mapping[str, Agreement]
    num_steps: int


def fit(
    module: GraderModule,
    data: EssayDataModule,
    *,
    trainer: TrainerSpec,
    checkpoint: CheckpointSpec,
    sample_table: SampleTableSpec,
    hardware: HardwareSpec,
    strategy: StrategySpec,
    ranks: Ranks,
    logger: Logger | None,
    run_dir: Path,
    baselines: Mapping[str, float],
) -> Fitted:
    """Train ``module`` on ``data``; checkpoints, logs and samples go into ``run_dir``.

    Args:
        baselines: Metrics of baselines on the same validation essays, logged once.
    """
    log = MetricsLog(run_dir / "metrics.jsonl")
    validation_log = ValidationLog(log)
    progress = ProgressReport(
        log,
        every_n_steps=trainer.log_every_n_steps,
        total_steps=module.num_steps,
        is_terminal=sys.stdout.isatty(),
    )
    saves = _checkpoints(checkpoint, run_dir / "checkpoints", has_val=bool(data.val_examples))
    lightning_trainer = Trainer(
        accelerator=hardware.accelerator,
        strategy=build_strategy(strategy, hardware, ranks=ranks),
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        use_distributed_sampler=False,  # ours deals to ranks
        precision="32-true",  # dtypes and autocast are the module's own
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps or -1,
        accumulate_grad_batches=module.accumulation,
        gradient_clip_val=trainer.gradient_clip_norm,
        check_val_every_n_epoch=trainer.val_every_n_epochs,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=trainer.log_every_n_steps,
        logger=logger or False,
        default_root_dir=run_dir,
        callbacks=[progress, validation_log, *saves],
    )
    if logger is not None and baselines:
        logger.log_metrics(dict(baselines), step=0)
    _fit(lightning_trainer, module, data)
    last = run_dir / "checkpoints" / "last.ckpt"
    # Whatever the settings, the end is kept.
    lightning_trainer.save_checkpoint(last, weights_only=False)
    # The last epoch may be none of every n-th, and max_steps may end a run within an epoch.
    if data.val_examples and validation_log.validated_step != lightning_trainer.global_step:
        lightning_trainer.validate(module, datamodule=data, verbose=False)
        _keep_if_best(lightning_trainer, last, checkpoint.monitor)
    _show_samples(module, data, sample_table, logger, run_dir)
    fitted = Fitted(
        metrics=validation_metrics(lightning_trainer),
        groups=_agreement_by_operation(module),
        num_steps=lightning_trainer.global_step,
    )
    write_metrics_json(run_dir / "metrics.json", {**_all_metrics(fitted), **baselines})
    return fitted


def _show_samples(
    module: GraderModule,
    data: EssayDataModule,
    spec: SampleTableSpec,
    logger: Logger | None,
    run_dir: Path,
) -> None:
    """A few pages with gold and predicted answers, in the run and in W&B."""
    # Without validation essays the table shows some that were trained on.
    shown = data.val_examples or data.train.examples()
    rows = sample_rows(module.grader, shown, num_examples=spec.num_examples)
    if rows:
        write_samples_html(rows, run_dir / "samples.html")
        log_samples(logger, rows)


def _fit(trainer: Trainer, module: GraderModule, data: EssayDataModule) -> None:
    """Fit; Ctrl-C comes out as what it is, and not as Lightning's bare exit."""
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit as error:
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise


def _keep_if_best(trainer: Trainer, last: Path, monitor: str) -> None:
    """Name the last state the best too, if a validation after the last epoch says so."""
    scores = [
        float(callback.best_model_score)
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None
    ]
    score = validation_metrics(trainer)[monitor]
    if not scores or score > max(scores):
        aside = last.with_name(".best.ckpt")
        shutil.copyfile(last, aside)
        aside.replace(last.with_name("best.ckpt"))


def _all_metrics(fitted: Fitted) -> dict[str, float]:
    by_operation = {
        f"val/{name}/operation/{kind}": agreement.metrics[f"{name}/total"]
        for kind, agreement in fitted.groups.items()
        for name in ("qwk", "mae")
    }
    return {**fitted.metrics, **by_operation}


def _agreement_by_operation(module: GraderModule) -> dict[str, Agreement]:
    """Agreement of the last validation by what was done to the essay."""
    marked = [
        Marked(
            id=example.id,
            source=example.source,
            group=example.group,
            num_chars=example.num_chars,
            gold=example.scores,
            gold_text="",
            grade=grade,
        )
        for example, grade in module.graded
    ]
    return by_group(marked, rubric=module.grader.rubric, threshold=None, num_resamples=0, seed=0)


def _checkpoints(spec: CheckpointSpec, folder: Path, *, has_val: bool) -> list[Callback]:
    """Saves of the last state, by steps and by epochs, and of the best one."""
    last: dict[str, Any] = {"dirpath": folder, "save_top_k": 1, "enable_version_counter": False}
    found: list[Callback] = []
    if spec.every_n_train_steps is not None:
        found.append(
            ModelCheckpoint(filename="last", every_n_train_steps=spec.every_n_train_steps, **last)
        )
    if spec.save_each_epoch:
        found.append(
            ModelCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **last)
        )
    if has_val:
        found.append(
            ModelCheckpoint(
                filename="best",
                monitor=spec.monitor,
                mode="max",
                save_on_train_epoch_end=False,
                **last,
            )
        )
    return found
