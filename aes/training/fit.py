"""Runs a training: builds Lightning's Trainer around the module, leaves a finished run behind."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

from aes.data.datamodule import EssayDataModule
from aes.hardware import HardwareSpec
from aes.metrics.groups import GroupAgreement, by_group
from aes.report.samples import write_samples_html
from aes.training.metrics_log import MetricsLog, write_metrics_json
from aes.training.module import GraderModule
from aes.training.progress import ProgressReport
from aes.training.sample_table import log_samples, sample_rows
from aes.training.spec import CheckpointSpec, SampleTableSpec, TrainerSpec
from aes.training.validation_log import ValidationLog


@dataclass(frozen=True)
class Fitted:
    """What a training ended with.

    Attributes:
        metrics: Last validation metrics by name, e.g. ``val/qwk/total``.
        groups: Agreement of totals within each kind of degradation; empty without any.
        num_steps: Optimiser steps done.
    """

    metrics: Mapping[str, float]
    groups: Mapping[str, GroupAgreement]
    num_steps: int


def fit(
    module: GraderModule,
    data: EssayDataModule,
    *,
    trainer: TrainerSpec,
    checkpoint: CheckpointSpec,
    sample_table: SampleTableSpec,
    hardware: HardwareSpec,
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
    lightning_trainer = Trainer(
        accelerator=hardware.accelerator,
        devices=1,
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
        callbacks=[
            ProgressReport(
                log,
                every_n_steps=trainer.log_every_n_steps,
                total_steps=module.num_steps,
                is_terminal=sys.stdout.isatty(),
            ),
            validation_log,
            *_checkpoints(checkpoint, run_dir / "checkpoints", has_val=bool(data.val_examples)),
        ],
    )
    if logger is not None and baselines:
        logger.log_metrics(dict(baselines), step=0)
    lightning_trainer.fit(module, datamodule=data)
    # A run that max_steps ends within an epoch has not validated its last state.
    if data.val_examples and validation_log.validated_step != lightning_trainer.global_step:
        lightning_trainer.validate(module, datamodule=data, verbose=False)
    metrics = {
        name: float(value)
        for name, value in lightning_trainer.callback_metrics.items()
        if name.startswith("val/")
    }
    rows = sample_rows(module.grader, data.val_examples, num_examples=sample_table.num_examples)
    if rows:
        write_samples_html(rows, run_dir / "samples.html")
        log_samples(logger, rows)
    groups = _agreement_by_operation(module)
    by_operation = {
        f"val/{name}/operation/{kind}": value
        for kind, agreement in groups.items()
        for name, value in (("qwk", agreement.qwk), ("mae", agreement.mae))
    }
    write_metrics_json(run_dir / "metrics.json", {**metrics, **by_operation, **baselines})
    return Fitted(metrics, groups, lightning_trainer.global_step)


def _agreement_by_operation(module: GraderModule) -> dict[str, GroupAgreement]:
    """Agreement of totals by what was done to the essay; an unread answer counts as the least."""
    rubric = module.grader.rubric
    kinds = [example.group.rsplit("_", 1)[0] for example, _ in module.graded]
    if not any(kinds):
        return {}
    awarded = [
        rubric.minimum_total if grade.parse_error else grade.expected_total
        for _, grade in module.graded
    ]
    gold = [rubric.total(example.scores) for example, _ in module.graded]
    return by_group(torch.tensor(awarded).round(), torch.tensor(gold), kinds)


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
