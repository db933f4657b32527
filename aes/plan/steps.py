"""Size of a split and the trainer's settings -> optimiser steps, and the steps that are saved.

Plain counting; does not know what a step costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long to train, when to look and when to save.

    Attributes:
        max_steps: Optimiser steps after which to stop early; ``None``: no such limit.
        val_every_n_epochs: Validation comes after every so many epochs, and after the last.
        every_n_train_steps: Steps between two saves; ``None``: not by steps.
        warmup_ratio: Share of all steps over which the learning rate rises.
        course: How it falls from there: ``cosine``, ``linear``, or ``constant``: not at all.
    """

    max_epochs: int
    max_steps: int | None
    val_every_n_epochs: int
    every_n_train_steps: int | None
    save_each_epoch: bool
    warmup_ratio: float
    course: str


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """When a run steps, validates and saves.

    Attributes:
        per_epoch: Optimiser steps of a whole epoch; the last may hold fewer samples.
        total: Steps of the run.
        samples: Samples that the run trains on, repeats counted.
        last_batch: Samples in the last step of an epoch.
        accumulation: Micro-batches that each device adds up before a step.
        micro_batches: Those of the whole run on each device; a step of what is left takes fewer.
        epoch_ends: Steps at which an epoch ends.
        validations: Steps after which the validation split is graded.
        saves: Steps at which a checkpoint is written; the last step is always among them.
        warmup: Steps over which the learning rate rises.
        note: In words, which saves there are and which setting does nothing.
    """

    per_epoch: int
    total: int
    samples: int
    last_batch: int
    accumulation: int
    micro_batches: int
    epoch_ends: tuple[int, ...]
    validations: tuple[int, ...]
    saves: tuple[int, ...]
    warmup: int
    note: str


def plan_steps(
    schedule: Schedule, *, num_examples: int, global_batch_size: int, accumulation: int
) -> StepPlan:
    """Count a run's steps.

    The last batch of an epoch is made of what is left, so that every sample is seen once an epoch.
    """
    per_epoch = math.ceil(num_examples / global_batch_size)
    total = per_epoch * schedule.max_epochs
    if schedule.max_steps is not None:
        total = min(total, schedule.max_steps)
    epoch_ends = tuple(range(per_epoch, total + 1, per_epoch)) if total else ()
    last = {total} if total else set()
    looks = {s for i, s in enumerate(epoch_ends, 1) if i % schedule.val_every_n_epochs == 0}
    every = schedule.every_n_train_steps
    saves = set(range(every, total + 1, every)) if every else set()
    saves |= set(epoch_ends) if schedule.save_each_epoch else set()
    rest = total - len(epoch_ends) * per_epoch
    return StepPlan(
        per_epoch=per_epoch,
        total=total,
        samples=len(epoch_ends) * num_examples + rest * global_batch_size,
        last_batch=num_examples - (per_epoch - 1) * global_batch_size if per_epoch else 0,
        accumulation=accumulation,
        micro_batches=len(epoch_ends)
        * _micro_batches(num_examples, global_batch_size, accumulation)
        + rest * accumulation,
        epoch_ends=epoch_ends,
        validations=tuple(sorted(looks | last)),
        saves=tuple(sorted(saves | last)),
        warmup=math.ceil(schedule.warmup_ratio * total),
        note=_saves_note(schedule, total, tuple(sorted(saves | last))),
    )


def _micro_batches(num_examples: int, global_batch_size: int, accumulation: int) -> int:
    """Of one epoch, as the sampler cuts it: the last step into as few as hold it."""
    full, ragged = divmod(num_examples, global_batch_size)
    return full * accumulation + math.ceil(ragged * accumulation / global_batch_size)


def _saves_note(schedule: Schedule, total: int, saves: tuple[int, ...]) -> str:
    every = schedule.every_n_train_steps
    reasons = []
    if every:
        never = f" (never reached in {total})" if every > total else ""
        reasons.append(f"every {every} steps{never}")
    if schedule.save_each_epoch:
        reasons.append("after each epoch")
    return f"{' and '.join(reasons) or 'at the end only'}: {_enumerate_steps(saves)}"


def _enumerate_steps(steps: tuple[int, ...]) -> str:
    """Few steps all, many shortened: ``step 38``, ``steps 4, 8, 12 ... 48``."""
    if not steps:
        return "no step"
    if len(steps) == 1:
        return f"step {steps[0]}"
    shown = ", ".join(map(str, steps[:4] if len(steps) <= 4 else steps[:3]))
    return f"steps {shown}" + (f" ... {steps[-1]} ({len(steps)} saves)" if len(steps) > 4 else "")
