"""A run that does not fit its device -> changes with which it would, each computed again.

Knows no setting by its YAML key but those it names to the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aes.plan.memory import SAFETY_MARGIN, Workload, plan_memory
from aes.plan.parameters import sum_parameters

_LEAST_TOKENS = 256
_LEAST_PARAMETERS = 1e8
_SHARDED_DEVICES = 4


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
    fitting = [f"{change} ({plan.total:.1f} GiB)" for change, plan in tried if plan.fits]
    hardware = replace(load.hardware, micro_batch_size=1)
    frugal = replace(load, checkpointing=True, hardware=hardware)
    if not plan_memory(frugal, machine_memory_gib=available_gib).fits:
        fitting += [_shorter_limit(frugal, available_gib), _smaller_model(frugal, available_gib)]
    return tuple(remedy for remedy in fitting if remedy)


def _alternatives(load: Workload, global_batch_size: int) -> Iterator[tuple[str, Workload]]:
    """Changes in the order in which one would try them; later ones keep checkpointing on."""
    with_checkpointing = "" if load.checkpointing else " with gradient checkpointing"
    if not load.checkpointing:
        yield "gradient checkpointing", replace(load, checkpointing=True)
    for size in range(load.hardware.micro_batch_size - 1, 0, -1):
        if global_batch_size % (size * load.hardware.num_ranks) == 0:
            hardware = replace(load.hardware, micro_batch_size=size)
            change = f"hardware.micro_batch_size={size}{with_checkpointing}"
            yield change, replace(load, checkpointing=True, hardware=hardware)
    devices = max(_SHARDED_DEVICES, load.hardware.devices)
    if load.hardware.accelerator == "cuda":
        sharded = replace(load.hardware, devices=devices, micro_batch_size=1)
        change = f"strategy=zero3 on {devices} devices, micro-batch 1{with_checkpointing}"
        yield change, replace(load, checkpointing=True, hardware=sharded, strategy="zero3")


def _shorter_limit(frugal: Workload, available_gib: float) -> str:
    """The greatest limit that fits at a micro-batch of 1 with checkpointing, in steps of 64."""
    for limit in range(frugal.max_tokens // 64 * 64, _LEAST_TOKENS - 1, -64):
        supervised = int(frugal.max_supervised * limit / frugal.max_tokens)
        shorter = replace(frugal, max_tokens=limit, max_supervised=supervised)
        plan = plan_memory(shorter, machine_memory_gib=available_gib)
        if plan.fits:
            return f"data.max_tokens={limit} at micro-batch 1 ({plan.total:.1f} GiB)"
    return ""


def _smaller_model(frugal: Workload, available_gib: float) -> str:
    """How many parameters the device would hold beside everything else."""
    plan = plan_memory(frugal, machine_memory_gib=available_gib)
    held = plan.weights + plan.gathered + plan.gradients + plan.optimiser
    room = available_gib * (1 - SAFETY_MARGIN) - (plan.total - held)
    largest = room / held * sum_parameters(frugal.parameters).total
    if largest < _LEAST_PARAMETERS:
        return ""
    return f"a smaller model, up to about {largest / 1e9:.1f} B parameters"
