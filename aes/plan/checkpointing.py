"""What a run keeps and what a device has -> which layers the backward pass computes again.

The one place where ``auto`` is decided. The cheapest in time that fits is taken: what is left free
is worth nothing, and every layer that is recomputed takes time in every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from aes.kernels.checkpointing import Policy
from aes.plan.lengths import LengthSummary
from aes.plan.memory import SAFETY_MARGIN, MemoryPlan, plan_memory
from aes.plan.time import recompute_flops
from aes.plan.workload import Checkpointing, Workload

_DOUBT = 0.15
"""Activations may be more than planned by this share: a run that does not fit is lost, one that
recomputes a layer too many is a little slower."""


def choose_checkpointing(
    load: Workload,
    *,
    asked: Policy | Literal["auto"],
    every: int,
    train: LengthSummary,
    machine_memory_gib: float | None,
) -> tuple[Checkpointing, str]:
    """What ``trainer.gradient_checkpointing`` stands for.

    Args:
        load: The run; its own ``checkpointing`` does not matter.
        every: The n of ``every_nth`` where that is asked for.
        train: Lengths that are trained on.
        machine_memory_gib: Memory per device of the machine at hand, for hardware that names none.

    Returns:
        The choice, and why: empty if it was asked for.
    """
    if asked != "auto":
        return Checkpointing(policy=asked, every=every), ""
    tried: list[MemoryPlan] = []
    for choice in _by_time(load, train):
        changed = replace(load, checkpointing=choice)
        tried.append(plan_memory(changed, machine_memory_gib=machine_memory_gib))
        if tried[-1].available is None:
            return choice, "auto: the device's memory is not known"
        if _is_safe(tried[-1]):
            break
    return choice, _reason(tried)


def _by_time(load: Workload, train: LengthSummary) -> list[Checkpointing]:
    """All policies, the quickest first; the last is ``all``."""

    def flops(choice: Checkpointing) -> float:
        return recompute_flops(replace(load, checkpointing=choice), train)

    return sorted(_choices(load.model.text.num_layers), key=flops)


def _choices(num_layers: int) -> Iterator[Checkpointing]:
    yield Checkpointing(policy="none", every=1)
    yield Checkpointing(policy="attention", every=1)
    for every in range(num_layers, 1, -1):
        yield Checkpointing(policy="every_nth", every=every)
    yield Checkpointing(policy="all", every=1)


def _is_safe(plan: MemoryPlan) -> bool:
    assert plan.available is not None
    doubt = _DOUBT * (plan.activations + plan.logits)
    return plan.total + doubt <= plan.available * (1 - SAFETY_MARGIN)


def _reason(tried: Sequence[MemoryPlan]) -> str:
    if len(tried) == 1:
        return "auto: everything fits"
    without = f"without it {tried[0].total:.1f} GiB"
    if _is_safe(tried[-1]):
        return f"auto: the quickest that fits with room to spare; {without}"
    return f"auto: the least there is; {without}"
