"""Where a run stood -> the state of Lightning's loops that makes it go on from there.

Lightning's own states differ by the hook that they were saved in, and some of them repeat or leave
out a validation. All checkpoints here are taken behind an optimiser step, and this is the one place
that knows what Lightning makes of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.loop import _Loop

_STAGES = ("ready", "started", "processed", "completed")


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place between two optimiser steps.

    Attributes:
        step: Optimiser steps done.
        epoch: Pass over the data that is under way, from 0.
        steps_in_epoch: Optimiser steps done in it.
        batches_in_epoch: Micro-batches done in it.
        has_to_validate: A validation comes before anything else.
        is_final: No step is left.
    """

    step: int
    epoch: int
    steps_in_epoch: int
    batches_in_epoch: int
    has_to_validate: bool
    is_final: bool

    @property
    def is_within_epoch(self) -> bool:
        """Whether the epoch has begun and not yet ended."""
        return self.batches_in_epoch > 0


def find_position(
    *,
    step: int,
    epoch: int,
    steps_in_epoch: int,
    accumulation: int,
    batches_per_epoch: int,
    max_epochs: int | None,
    max_steps: int | None,
    val_every_n_epochs: int | None,
) -> Position:
    """Where a run with this accumulation goes on.

    Args:
        step: Optimiser steps done.
        epoch: Pass that the last of them belongs to, from 0.
        steps_in_epoch: Those of that pass.
        accumulation: Micro-batches per optimiser step; the last step of an epoch may have fewer.
        batches_per_epoch: Micro-batches of a pass.
        max_epochs: Passes of the whole run.
        max_steps: Optimiser steps after which to stop early; ``None``: no such limit.
        val_every_n_epochs: ``None``: there is nothing to validate on.
    """
    batches = min(steps_in_epoch * accumulation, batches_per_epoch)
    is_at_end = batches == batches_per_epoch
    is_final = step == max_steps or (is_at_end and epoch + 1 == max_epochs)
    validates = val_every_n_epochs is not None and (
        is_final or (is_at_end and (epoch + 1) % val_every_n_epochs == 0)
    )
    if is_at_end and not validates:
        epoch, steps_in_epoch, batches = epoch + 1, 0, 0
    return Position(
        step=step,
        epoch=epoch,
        steps_in_epoch=steps_in_epoch,
        batches_in_epoch=batches,
        has_to_validate=validates,
        is_final=is_final,
    )


def place_loops(states: dict[str, Any], position: Position) -> None:
    """Rewrite the saved states of Lightning's loops so that they begin at ``position``.

    Args:
        states: ``checkpoint["loops"]["fit_loop"]``, changed in place.
    """
    epoch, within = position.epoch, position.is_within_epoch
    begun = epoch + 1 if within else epoch
    states["epoch_progress"] = _twice(ready=begun, started=begun, processed=epoch, completed=epoch)
    done = dict.fromkeys(_STAGES, position.batches_in_epoch)
    states["epoch_loop.batch_progress"] = {
        **_twice(**done),
        "is_last_batch": position.has_to_validate,
    }
    # Between ready and processed a validation counts as broken off, and is begun again.
    broken_off = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    states["epoch_loop.val_loop.batch_progress"] = {
        "total": broken_off if position.has_to_validate else dict.fromkeys(_STAGES, 0),
        "current": dict.fromkeys(_STAGES, 0),
        "is_last_batch": False,
    }
    counted = {"ready": position.step, "completed": position.step}
    in_epoch = {"ready": position.steps_in_epoch, "completed": position.steps_in_epoch}
    both = {"total": counted, "current": in_epoch}
    cleared = {"total": {**counted, "started": position.step}}
    cleared["current"] = {**in_epoch, "started": position.steps_in_epoch}
    states["epoch_loop.scheduler_progress"] = both
    states["epoch_loop.automatic_optimization.optim_progress"] = {
        "optimizer": {"step": both, "zero_grad": cleared}
    }
    # Lightning counts a step for its loggers behind the validation that follows it.
    stepped = position.step - 1 if position.has_to_validate else position.step
    states["epoch_loop.state_dict"] = {"_batches_that_stepped": stepped}
    states["state_dict"] = {}


def begin_at(trainer: Trainer, position: Position) -> None:
    """Tell a Trainer that has just loaded the states of ``place_loops``; for ``on_train_start``."""
    loop = trainer.fit_loop
    if not position.is_within_epoch:
        # Else it would take the beginning of an epoch for the end of one, and validate.
        _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]
    elif position.has_to_validate:
        trainer.val_check_batch = position.batches_in_epoch
    if position.is_final:
        trainer.check_val_every_n_epoch = 1
        trainer.should_stop = not position.has_to_validate


def _twice(**counts: int) -> dict[str, Any]:
    return {"total": dict(counts), "current": dict(counts)}
