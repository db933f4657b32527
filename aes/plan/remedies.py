"""A run that does not fit its device -> changes with which it would, each computed again.

Knows no setting by its YAML key but those it names to the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aes.hardware import StrategySpec
from aes.plan.memory import SAFETY_MARGIN, MemoryPlan, plan_memory
from aes.plan.parameters import sum_parameters
from aes.plan.sharding import FSDP2, OFFLOAD, ZERO2, ZERO3
from aes.plan.workload import Checkpointing, Workload

_ALL = Checkpointing(policy="all", every=1)
_LEAST_TOKENS = 256
_LEAST_PARAMETERS = 1e8
_SHARDED_DEVICES = 4
# For each strategy those that hold less on a device, the one that sends least first.
_HOLD_LESS: dict[str, tuple[StrategySpec, ...]] = {
    "single": (FSDP2, ZERO3, OFFLOAD),
    "ddp": (ZERO2, FSDP2, ZERO3, OFFLOAD),
    "zero2": (FSDP2, ZERO3, OFFLOAD),
    "fsdp2": (OFFLOAD,),
    "zero3": (OFFLOAD,),
    "zero3_offload": (),
}


def suggest_remedies(
    load: Workload, *, global_batch_size: int, available_gib: float
) -> tuple[str, ...]:
    """What to change so that the run fits, the least change first; empty if nothing was found.

    Args:
        load: A run that does not fit.
        global_batch_size: Stays as it is, so only micro-batches that divide it are tried.
        available_gib: Memory of a device.
    """
    tried = [
        (change, plan_memory(other, machine_memory_gib=available_gib))
        for change, other in _alternatives(load, global_batch_size)
    ]
    fitting = [_remedy(change, plan) for change, plan in tried if plan.fits]
    fitting += [
        _fit_micro_batch(other, load, global_batch_size, available_gib)
        for other in _with_other_strategies(load)
    ]
    hardware = replace(load.hardware, micro_batch_size=1)
    frugal = replace(load, checkpointing=_ALL, hardware=hardware)
    if not plan_memory(frugal, machine_memory_gib=available_gib).fits:
        fitting += [_shorter_limit(frugal, available_gib), _smaller_model(frugal, available_gib)]
    return tuple(remedy for remedy in fitting if remedy)


def _remedy(change: str, plan: MemoryPlan) -> str:
    return f"{change} ({plan.total:.1f} GiB)"


def _alternatives(load: Workload, global_batch_size: int) -> Iterator[tuple[str, Workload]]:
    """Changes in the order in which one would try them; later ones keep checkpointing on."""
    is_frugal = load.checkpointing.policy == "all"
    with_checkpointing = "" if is_frugal else " with gradient checkpointing"
    if not is_frugal:
        yield "trainer.gradient_checkpointing=all", replace(load, checkpointing=_ALL)
    for size in _micro_batch_sizes(load, global_batch_size):
        if size < load.hardware.micro_batch_size:
            hardware = replace(load.hardware, micro_batch_size=size)
            change = f"hardware.micro_batch_size={size}{with_checkpointing}"
            yield change, replace(load, checkpointing=_ALL, hardware=hardware)


def _micro_batch_sizes(load: Workload, global_batch_size: int) -> Iterator[int]:
    """From the one asked for downwards, those that divide the global batch."""
    for size in range(load.hardware.micro_batch_size, 0, -1):
        if global_batch_size % (size * load.hardware.num_ranks) == 0:
            yield size


def _with_other_strategies(load: Workload) -> Iterator[Workload]:
    """The run under strategies that hold less; on more devices if there is but one."""
    on_cpu = load.hardware.accelerator == "cpu"
    for strategy in _HOLD_LESS[load.strategy.name]:
        other = replace(load, strategy=strategy)
        if strategy == OFFLOAD:
            if not on_cpu:
                yield other
        elif load.hardware.num_ranks > 1:
            yield other
        elif not on_cpu:
            yield replace(other, hardware=replace(load.hardware, devices=_SHARDED_DEVICES))


def _fit_micro_batch(
    other: Workload, load: Workload, global_batch_size: int, available_gib: float
) -> str:
    """``other`` with the largest micro-batch that fits, as changes to ``load``; empty if none."""
    for size in _micro_batch_sizes(other, global_batch_size):
        for checkpointing in dict.fromkeys((other.checkpointing, _ALL)):
            hardware = replace(other.hardware, micro_batch_size=size)
            found = replace(other, hardware=hardware, checkpointing=checkpointing)
            plan = plan_memory(found, machine_memory_gib=available_gib)
            if plan.fits:
                return _remedy(_changes(load, found), plan)
    return ""


def _changes(load: Workload, found: Workload) -> str:
    """What to type to get from one to the other."""
    changes = [f"strategy={found.strategy.name}"]
    for name in ("devices", "micro_batch_size"):
        value = getattr(found.hardware, name)
        if value != getattr(load.hardware, name):
            changes.append(f"hardware.{name}={value}")
    if found.checkpointing != load.checkpointing:
        changes.append("trainer.gradient_checkpointing=all")
    return " ".join(changes)


def _shorter_limit(frugal: Workload, available_gib: float) -> str:
    """The greatest limit that fits at a micro-batch of 1 with checkpointing, in steps of 64."""
    for limit in range(frugal.max_tokens // 64 * 64, _LEAST_TOKENS - 1, -64):
        supervised = int(frugal.max_supervised * limit / frugal.max_tokens)
        longest = tuple(min(tokens, limit) for tokens in frugal.longest_tokens)
        shorter = replace(frugal, longest_tokens=longest, max_supervised=supervised)
        plan = plan_memory(shorter, machine_memory_gib=available_gib)
        if plan.fits:
            return f"data.max_tokens={limit} at micro-batch 1 ({plan.total:.1f} GiB)"
    return ""


def _smaller_model(frugal: Workload, available_gib: float) -> str:
    """How many parameters the device would hold beside everything else."""
    plan = plan_memory(frugal, machine_memory_gib=available_gib)
    held = plan.weights + plan.gathered + plan.gradients + plan.optimiser + plan.buffers
    if not held:  # everything waits in host memory, which the device does not limit
        return ""
    room = available_gib * (1 - SAFETY_MARGIN) - (plan.total - held)
    largest = room / held * sum_parameters(frugal.parameters).total
    if largest < _LEAST_PARAMETERS:
        return ""
    return f"a smaller model, up to about {largest / 1e9:.1f} B parameters"
