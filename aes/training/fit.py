"""Runs a training: builds Lightning's Trainer around the module, leaves a finished run behind."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy

from aes.data.datamodule import EssayDataModule
from aes.hardware import HardwareSpec, StrategySpec
from aes.metrics.results import Agreement
from aes.ranks import Ranks
from aes.report.samples import SampleRow, write_samples_html
from aes.training.bad_steps import FOLDER, BadSteps
from aes.training.checkpoint import Resumable
from aes.training.checkpoint.callback import STATE_FILE, Checkpoints, RunFacts
from aes.training.checkpoint.folder import clear_drafts
from aes.training.loggers import log_final, wandb_id
from aes.training.metrics_log import MetricsLog, write_metrics_json
from aes.training.module import TuningModule
from aes.training.progress import ProgressReport
from aes.training.sample_table import log_samples
from aes.training.spec import CheckpointSpec, SampleTableSpec, TrainerSpec
from aes.training.stopping import StopSignals
from aes.training.strategies import build_strategy
from aes.training.validation_log import ValidationLog, validation_metrics


@dataclass(frozen=True)
class Fitted:
    """What a training ended with.

    Attributes:
        metrics: Last validation metrics by name, e.g. ``val/qwk/total``.
        groups: Agreement within each kind of degradation; empty without any.
        num_steps: Optimiser steps done.
        num_skipped: Those of them that were left out, their loss or gradient being bad.
    """

    metrics: Mapping[str, float]
    groups: Mapping[str, Agreement]
    num_steps: int
    num_skipped: int


def fit(
    module: TuningModule,
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
    described: Mapping[str, Any],
    start: Resumable | None,
) -> Fitted:
    """Train ``module`` on ``data``; checkpoints, logs and samples go into ``run_dir``.

    Args:
        baselines: Metrics of baselines on the same validation essays, logged once.
        described: What decides the result, by name, for checkpoints to keep.
        start: Checkpoint to go on from; ``None``: begin, whatever a crash left in ``run_dir``.

    Raises:
        ValueError: If a checkpoint cannot be written, a step is bad and ``trainer.on_bad_loss``
            says to stop, or all steps were bad.
        SystemExit: With status 143 or 138 after SIGTERM or SIGUSR1, the step saved.
        KeyboardInterrupt: After Ctrl-C, the step saved; at once after the second one.
    """
    if module.num_steps == 0:  # what the adapter began with is all there is to be
        if ranks.is_first:
            write_metrics_json(run_dir / "metrics.json", dict(baselines))
        return Fitted(metrics={}, groups={}, num_steps=0, num_skipped=0)
    log = MetricsLog(run_dir / "metrics.jsonl")
    facts = RunFacts(
        settings=dict(described),
        strategy=strategy.name,
        total_steps=module.num_steps,
        max_steps=trainer.max_steps,
        wandb_id=wandb_id(logger),
        has_val=bool(data.val_examples),
    )
    with StopSignals() as signals:
        progress = ProgressReport(
            log,
            every_n_steps=trainer.log_every_n_steps,
            total_steps=module.num_steps,
            is_terminal=sys.stdout.isatty(),
            signals=signals,
            waited_s=lambda: data.waited_s,
        )
        bad_steps = BadSteps(
            run_dir / FOLDER,
            policy=trainer.on_bad_loss,
            ranks=ranks,
            progress=progress,
            checks_gradients=not strategy.uses_deepspeed,
        )
        checkpoints = Checkpoints(
            run_dir / "checkpoints",
            spec=checkpoint,
            facts=facts,
            ranks=ranks,
            progress=progress,
            signals=signals,
            start=start,
        )
        if ranks.is_first:  # and here alone, as the checkpoints' folder has made sure
            clear_drafts(run_dir)
            if start is None:
                log.rewind(0)
        lightning_trainer = _trainer(
            trainer,
            accumulation=module.accumulation,
            hardware=hardware,
            strategy=build_strategy(strategy, hardware, ranks=ranks),
            logger=logger,
            run_dir=run_dir,
            callbacks=[progress, bad_steps, ValidationLog(log), checkpoints],
        )
        if logger is not None and baselines and start is None:
            logger.log_metrics(dict(baselines), step=0)
        _fit(lightning_trainer, module, data, start)
    fitted = Fitted(
        metrics=validation_metrics(lightning_trainer),
        groups=module.validation.groups(),
        num_steps=lightning_trainer.global_step,
        num_skipped=progress.skipped_steps,
    )
    _require_learned(fitted, run_dir)
    found = {**_all_metrics(fitted), **baselines}
    if ranks.is_first:
        write_metrics_json(run_dir / "metrics.json", found)
    # On every rank, since none can compute alone where weights are sharded; and then without
    # comments, of which one rank might come to write a word more than another.
    rows = module.validation.show(
        data.val_examples or data.train.examples(),  # what there is, if only what was trained on
        num_examples=sample_table.num_examples,
        scores_only=strategy.shards_weights,
    )
    if ranks.is_first:
        _show_samples(rows, logger, run_dir)
        log_final(logger, found)
    return fitted


def _require_learned(fitted: Fitted, run_dir: Path) -> None:
    if fitted.num_skipped >= fitted.num_steps > 0:
        raise ValueError(
            f"all {fitted.num_steps} steps were left out, since their loss or gradient was no "
            f"finite number, so nothing was learned; look at {run_dir / FOLDER}, and start anew "
            "with a lower optim.lr or mended data"
        )


def _trainer(
    spec: TrainerSpec,
    *,
    accumulation: int,
    hardware: HardwareSpec,
    strategy: Strategy,
    logger: Logger | None,
    run_dir: Path,
    callbacks: list[Callback],
) -> Trainer:
    """Lightning's Trainer, without what of its own we do ourselves."""
    return Trainer(
        accelerator=hardware.accelerator,
        strategy=strategy,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        use_distributed_sampler=False,  # ours deals to ranks
        precision="32-true",  # dtypes and autocast are the module's own
        max_epochs=spec.max_epochs,
        accumulate_grad_batches=accumulation,
        gradient_clip_val=spec.gradient_clip_norm,
        check_val_every_n_epoch=spec.val_every_n_epochs,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,  # ours saves
        log_every_n_steps=spec.log_every_n_steps,
        logger=logger or False,
        default_root_dir=run_dir,
        callbacks=callbacks,
    )


def _show_samples(rows: list[SampleRow], logger: Logger | None, run_dir: Path) -> None:
    """A few pages with gold and predicted answers, in the run and in W&B."""
    if rows:
        write_samples_html(rows, run_dir / "samples.html")
        log_samples(logger, rows)


def _fit(
    trainer: Trainer, module: TuningModule, data: EssayDataModule, start: Resumable | None
) -> None:
    """Fit; Ctrl-C comes out as what it is, and not as Lightning's bare exit."""
    # Lightning's own handlers would leave in the middle of a step, and ask all ranks about it
    # before each micro-batch.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    # A step with fewer micro-batches than others has empty ones, on purpose.
    warnings.filterwarnings("ignore", message=".*train_dataloader yielded None.*")
    path = start.folder / STATE_FILE if start is not None else None
    try:
        trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    except SystemExit as error:
        if trainer.interrupted and error.code == 1:
            raise KeyboardInterrupt from error
        raise


def _all_metrics(fitted: Fitted) -> dict[str, float]:
    by_operation = {
        f"val/{name}/operation/{kind}": agreement.metrics[f"{name}/total"]
        for kind, agreement in fitted.groups.items()
        for name in ("qwk", "mae")
    }
    skipped = {"train/skipped_steps": float(fitted.num_skipped)} if fitted.num_skipped else {}
    return {**fitted.metrics, **by_operation, **skipped}
