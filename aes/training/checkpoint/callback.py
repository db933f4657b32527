"""A running Trainer -> checkpoints, and from a checkpoint the same path again.

There is one moment to save: behind an optimiser step, and so before the validation that may follow
it. The best checkpoint is chosen among the saved ones when its validation is done.
"""

# ruff: noqa: ARG002 (a hook takes what Lightning passes, needed or not)

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from aes.ranks import Ranks
from aes.training.checkpoint.folder import CheckpointFolder
from aes.training.checkpoint.manifest import Best, Manifest, library_versions
from aes.training.checkpoint.position import Position, begin_at, find_position, place_loops
from aes.training.checkpoint.resumable import Resumable
from aes.training.checkpoint.rng import restore_rng_state, rng_state
from aes.training.progress import ProgressReport
from aes.training.spec import CheckpointSpec
from aes.training.stopping import StopSignals, stop_by
from aes.training.validation_log import validation_metrics

STATE_FILE = "state.ckpt"
"""Weights, optimiser, schedule and callbacks, as Lightning keeps them."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a checkpoint says about its run.

    Attributes:
        settings: What decides the result, by dotted key; to compare before going on.
        strategy: How the model is spread over the ranks.
        total_steps: Optimiser steps of the whole run.
        max_steps: Those after which to stop early; ``None``: no such limit.
        wandb_id: Id of the W&B run.
        has_val: There is something to validate on.
    """

    settings: Mapping[str, Any]
    strategy: str
    total_steps: int
    max_steps: int | None
    wandb_id: str | None
    has_val: bool


class Checkpoints(Callback):
    """Saves as ``spec`` says, before validations, at the end, and when asked to stop.

    Args:
        folder: Where to.
        progress: The callback that reports steps; it stands before this one.
        signals: Tells when to stop.
        start: The checkpoint that the run goes on from.
    """

    def __init__(
        self,
        folder: Path,
        *,
        spec: CheckpointSpec,
        facts: RunFacts,
        ranks: Ranks,
        progress: ProgressReport,
        signals: StopSignals,
        start: Resumable | None,
    ) -> None:
        self._folder = CheckpointFolder(folder, ranks=ranks, keep_last=spec.keep_last)
        self._spec, self._facts, self._ranks = spec, facts, ranks
        self._progress, self._signals, self._start = progress, signals, start
        self._best: Best | None = None
        self._validations: tuple[Mapping[str, float | None], ...] = ()
        self._saved_step = self._seen_step = -1
        self._position: Position | None = None
        self._folder.claim()
        self._folder.tidy(start)
        if start is not None:
            self._take_up(start)

    def _take_up(self, start: Resumable) -> None:
        """Go on with the bookkeeping of the checkpoint's run, as far as it is here."""
        manifest, best = start.manifest, start.manifest.best
        self._validations, self._saved_step = manifest.validations, manifest.step
        self._folder.adopt(start)
        # Another run's best checkpoint stays there.
        if best is not None and (best.step == manifest.step or self._folder.is_own(start)):
            self._best = best
        self._folder.link_best(self._best.step if self._best else None)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put sampler and loops where the checkpoint says."""
        assert self._start is not None
        manifest, sampler = self._start.manifest, trainer.datamodule.sampler  # type: ignore[attr-defined]
        self._position = find_position(
            step=manifest.step,
            epoch=manifest.epoch,
            steps_in_epoch=manifest.steps_in_epoch,
            accumulation=trainer.accumulate_grad_batches,
            batches_per_epoch=len(sampler),
            max_epochs=trainer.max_epochs,
            max_steps=self._facts.max_steps,
            val_every_n_epochs=trainer.check_val_every_n_epoch if self._facts.has_val else None,
        )
        sampler.resume_at(self._position.epoch, self._position.steps_in_epoch)
        place_loops(checkpoint["loops"]["fit_loop"], self._position)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on drawing where the saved run had stopped; nothing may be drawn before."""
        self._seen_step = trainer.global_step
        if self._position is None or self._start is None:
            return
        begin_at(trainer, self._position)
        if self._position.is_within_epoch:  # whose beginning, which sets the mode, was before
            pl_module.on_train_epoch_start()
        state = self._start.folder / _rank_file(self._ranks.rank)
        if state.is_file():  # on more ranks than before some begin with a seed of their own
            restore_rng_state(torch.load(state, weights_only=True))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to, and stop if that was asked for."""
        step = trainer.global_step
        if step == self._seen_step:
            return
        self._seen_step = step
        if self._is_final(trainer):
            # No step follows: validate, whatever the cadence, and leave the loop.
            trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True
        stop = self._progress.report.stop_signal
        if stop or self._is_due(trainer):
            self._save(trainer)
        if stop:
            self._stop(stop)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where a run goes on with its last validation, nothing comes after that."""
        if self._position is not None and self._position.is_final:
            trainer.should_stop = True

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop if that was asked for: the step before the validation is saved."""
        stop = max(self._ranks.gather(self._signals.received))
        if stop:
            self._stop(stop)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the best."""
        step, metrics = trainer.global_step, validation_metrics(trainer)
        finite = {name: v if isfinite(v) else None for name, v in metrics.items()}
        self._validations += ({"step": step, **finite},)
        score = finite.get(self._spec.monitor)
        if score is None or not self._is_better(score):
            return
        self._best = Best(step=step, score=score)
        self._folder.link_best(step)
        self._folder.prune(step)

    def _is_better(self, score: float) -> bool:
        if self._best is None:
            return True
        best = self._best.score
        return score < best if self._spec.lower_is_better else score > best

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing more is saved."""
        self._folder.release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Nothing more is saved."""
        self._folder.release()

    def _is_final(self, trainer: Trainer) -> bool:
        is_last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        return trainer.global_step == self._facts.max_steps or (
            is_last_epoch and trainer.is_last_batch
        )

    def _is_due(self, trainer: Trainer) -> bool:
        every = self._spec.every_n_train_steps
        if trainer.should_stop or (every is not None and trainer.global_step % every == 0):
            return True
        if not trainer.is_last_batch:
            return False
        val_every = trainer.check_val_every_n_epoch or 1
        validates = self._facts.has_val and (trainer.current_epoch + 1) % val_every == 0
        return self._spec.save_each_epoch or validates

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self._saved_step:
            return
        # All ranks, since shards have to be gathered.
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)

        def write_files(folder: Path) -> list[Path]:
            written = [folder / _rank_file(self._ranks.rank)]
            torch.save(rng_state(), written[0])
            if self._ranks.is_first:
                written.append(folder / STATE_FILE)
                torch.save(state, written[1])
            return written

        self._folder.write(self._manifest(trainer), write_files)
        self._saved_step = trainer.global_step
        self._folder.prune(self._best.step if self._best else None)

    def _manifest(self, trainer: Trainer) -> Manifest:
        progress = self._progress.state_dict()
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return Manifest(
            step=trainer.global_step,
            total_steps=self._facts.total_steps,
            epoch=trainer.current_epoch,
            steps_in_epoch=-(-batches // trainer.accumulate_grad_batches),
            micro_batches_in_epoch=batches,
            num_ranks=self._ranks.num_ranks,
            strategy=self._facts.strategy,
            skipped_steps=self._progress.skipped_steps,
            log_bytes=progress["log_bytes"],
            elapsed_s=progress["elapsed_s"],
            wandb_id=self._facts.wandb_id,
            best=self._best,
            validations=self._validations,
            settings=self._facts.settings,
            versions=library_versions(),
        )

    def _stop(self, number: int) -> None:
        if self._ranks.is_first:
            # After Ctrl-C whoever catches it says so.
            cause = "" if number == signal.SIGINT else f"Stopped by {signal.Signals(number).name}: "
            sys.stderr.write(
                f"{cause}step {self._saved_step} is saved; the same command with "
                f"run_dir={self._folder.path.parent} resume=auto goes on\n"
            )
        stop_by(number)


def _rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.pt"
