"""Steps whose loss or gradient is no finite number: stopped at, or left out and counted.

The batch that caused one is written out on every rank that has a part in it. Such a file holds
essays, so it is as private as they are.
"""

# ruff: noqa: ARG002 (a hook takes what Lightning passes, needed or not)

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from aes.data.datamodule import EssayDataModule
from aes.data.sampler import Pick
from aes.ranks import Ranks
from aes.training.progress import ProgressReport

FOLDER = "bad_batches"
MOST_IN_A_ROW = 10
"""So many bad steps one after the other are no accident: the weights are bad, not a sample."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One forward pass of a bad step.

    Attributes:
        ids: Of its samples.
        loss: As it was propagated back; NaN where only the gradient was bad and it is not known.
        tensors: As the model took them, on the CPU.
    """

    ids: tuple[str, ...]
    loss: float
    tensors: Mapping[str, Tensor]


def load_bad_batch(path: Path) -> tuple[dict[str, Any], list[MicroBatch]]:
    """Read a file of ``bad_batches``, e.g. to pass its tensors to the model again.

    Returns:
        ``step``, ``epoch``, ``rank``, ``reason`` and the sampler's ``seed``; and the micro-batches:
        those with a bad loss, or, where only a gradient was bad, all of the rank's step.
    """
    content = torch.load(path, weights_only=True)
    return content["facts"], [MicroBatch(**one) for one in content["micro_batches"]]


class BadSteps(Callback):
    """Looks at each optimiser step before it is done.

    Args:
        folder: Where bad batches go.
        policy: ``stop`` or ``skip``.
        progress: The callback that reports steps; it stands before this one.
        checks_gradients: Whether gradients lie whole on the parameters when a step is about to be
            done. Where they do not, as under DeepSpeed, its own check is heeded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        policy: Literal["stop", "skip"],
        ranks: Ranks,
        progress: ProgressReport,
        checks_gradients: bool,
    ) -> None:
        self._folder, self._policy = folder, policy
        self._ranks, self._progress = ranks, progress
        self._checks_gradients = checks_gradients
        self._losses: list[tuple[int, Tensor]] = []  # by micro-batch, of the step under way
        self._optimizer: Any = None
        self._num_in_a_row = 0

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Note the loss where it is: to look at it would make the device wait."""
        self._losses.append((_batches_done(trainer) - 1, loss.detach()))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Stop, or drop the gradients, on all ranks together."""
        self._optimizer = optimizer
        step = trainer.global_step + 1
        if not isfinite(self._progress.report.loss):
            self._treat(trainer, step, "the loss")
        elif self._checks_gradients and not isfinite(gradient_norm(pl_module)):
            self._treat(trainer, step, "the gradient")
        else:
            self._num_in_a_row = 0
            self._losses = []
            return
        self._losses = []
        pl_module.zero_grad(set_to_none=True)  # AdamW leaves parameters without gradient alone
        if not self._checks_gradients:
            _innermost(optimizer).step = _do_nothing

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Heed DeepSpeed, which leaves a step with a bad gradient out by itself."""
        optimizer, self._optimizer = self._optimizer, None
        if optimizer is None or self._checks_gradients:
            return
        held = vars(_innermost(optimizer))
        if held.get("step") is _do_nothing:
            del held["step"]
        elif getattr(optimizer, "overflow", False):
            self._treat(trainer, trainer.global_step, "the gradient")

    def _treat(self, trainer: Trainer, step: int, what: str) -> None:
        """Write the batch out; count it, or raise.

        Raises:
            ValueError: On every rank, if that is the policy, or if it happens again and again.
        """
        told = self._ranks.gather(self._write(trainer, step, what))
        ids = [name for _, names in told for name in names]
        places = ", ".join(path for path, _ in told if path)
        shown = ", ".join(ids[:8]) + (" ..." if len(ids) > 8 else "")
        named = f"{what} of step {step} is infinite or not a number (samples {shown})"
        written = f"the batch, which holds essays, is in {places}"
        self._num_in_a_row += 1
        if self._policy == "stop":
            raise ValueError(
                f"{named}; {written}: mend the data, or go on from the last checkpoint with "
                "resume=auto and trainer.on_bad_loss=skip, or start anew with a lower optim.lr"
            )
        if self._num_in_a_row >= MOST_IN_A_ROW:
            raise ValueError(
                f"{named}, as of {MOST_IN_A_ROW} steps in a row; {written}: the weights are "
                "spoilt, so start anew with a lower optim.lr"
            )
        self._progress.skipped_steps += 1
        if self._ranks.is_first:
            sys.stderr.write(f"{named}; it is left out, and {written}\n")

    def _write(self, trainer: Trainer, step: int, what: str) -> tuple[str, tuple[str, ...]]:
        """This rank's part of the batch: path and ids; nothing where another rank's was bad."""
        data: EssayDataModule = trainer.datamodule  # type: ignore[attr-defined]
        picks = _picks(trainer, data)
        losses = [(number, float(loss)) for number, loss in self._losses]
        found = [(number, loss) for number, loss in losses if not isfinite(loss)]
        if not any(self._ranks.gather(bool(found))):  # nobody's loss: all that went in
            found = [(number, float("nan")) for number in picks]
        if not found:
            return "", ()
        ids = [data.ids(picks[number]) for number, _ in found]
        micro_batches = [
            {"ids": names, "loss": loss, "tensors": data.redraw(picks[number])}
            for names, (number, loss) in zip(ids, found, strict=True)
        ]
        facts = {
            "step": step,
            "epoch": trainer.current_epoch,
            "rank": self._ranks.rank,
            "reason": what,
            "seed": data.sampler.seed,
        }
        path = self._folder / f"step-{step:06d}-rank{self._ranks.rank}.pt"
        self._folder.mkdir(parents=True, exist_ok=True)
        torch.save({"facts": facts, "micro_batches": micro_batches}, path)
        return str(path), tuple(name for names in ids for name in names)


def gradient_norm(module: LightningModule) -> float:
    """Of all gradients together, by shards where they are sharded; the same on every rank."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def _picks(trainer: Trainer, data: EssayDataModule) -> dict[int, list[Pick]]:
    """What makes up the step under way: micro-batches by their number in the epoch, if any."""
    accumulation = trainer.accumulate_grad_batches
    number = (_batches_done(trainer) - 1) // accumulation
    step = data.sampler.steps()[number]
    places = enumerate(data.sampler.micro_batches(step), start=number * accumulation)
    return {place: picks for place, picks in places if picks}


def _batches_done(trainer: Trainer) -> int:
    """Micro-batches of this epoch, that under way included."""
    done: int = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return done


def _innermost(optimizer: Any) -> Any:
    """Torch's optimiser within those of Lightning and DeepSpeed."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _do_nothing(*_: Any, **__: Any) -> None:
    """In place of a step."""
