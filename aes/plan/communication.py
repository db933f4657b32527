"""A strategy and the links of the hardware -> what a rank receives a step, and how long that takes.

Counts bytes of rings, in which a rank receives (n - 1) / n of what is gathered or reduced. Latency,
and whether compute hides any of it, is not known here.

Source: Rajbhandari et al. (2020), ZeRO, section 7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aes.hardware import HardwareSpec
from aes.plan.sharding import DDP, OFFLOAD, SINGLE, ZERO2
from aes.plan.steps import StepPlan
from aes.plan.workload import FLOAT32, Workload, weight_bytes

LINK_SHARE = 0.8
"""Share of a link's bandwidth that is assumed to be reached by collectives of large buffers: 160
of NVLink's 200 GB/s, as in the known bound of 0.87 s for three passes of 46.6 GB on 4 x H800."""
PASSES = 2
"""Times that a micro-batch gathers all weights: forward and backward. Recomputing takes what was
gathered for the backward pass, except for attention under DeepSpeed, 3 % of the model; counted with
the nano on two ranks, DeepSpeed's reuse distance made as small as the model."""
HOST_LINK_GB_S = 64.0
"""Between a card and host memory, a direction: PCIe 5.0 with 16 lanes."""


@dataclass(frozen=True, kw_only=True)
class CommunicationPlan:
    """What one rank receives, in GB of 10^9 bytes, and the seconds that it takes.

    Attributes:
        gathered: Weights of other ranks in one pass through the model.
        passes: Passes of a micro-batch for which weights are gathered; 0 where they are not.
        weights: Gathered in a full step, over all its micro-batches.
        gradients: Of trained weights in a step, and their updated values where they are sharded.
        host: Copied between host memory and the device in a step.
        step: All of a step that comes from other ranks.
        step_s: A step's seconds at the assumed share of the links' bandwidth.
        floor_s: The same at their full bandwidth, host memory and ranks at once.
        validation: Gathered in one validation.
        validation_s: Seconds of one validation, like ``step_s``.
    """

    gathered: float
    passes: int
    weights: float
    gradients: float
    host: float
    step: float
    step_s: float
    floor_s: float
    validation: float
    validation_s: float


def plan_communication(
    load: Workload, *, steps: StepPlan, num_validation_passes: int
) -> CommunicationPlan:
    """Traffic of a full step and of a validation.

    Args:
        load: The run.
        steps: Tells how many micro-batches a step accumulates.
        num_validation_passes: Forward passes of one validation, on every rank alike.
    """
    gathered, from_host = _pass_bytes(load)
    passes = PASSES if load.strategy.shards_weights else 0
    micro_passes = passes * steps.accumulation
    gradients = _gradient_bytes(load, steps.accumulation)
    step = micro_passes * gathered + gradients
    host = micro_passes * from_host + _offloaded_state_bytes(load, steps.accumulation)
    link, host_link = link_gb_s(load.hardware) * 1e9, HOST_LINK_GB_S * 1e9
    graded_s = num_validation_passes * (gathered / link + from_host / host_link)
    return CommunicationPlan(
        gathered=gathered / 1e9,
        passes=passes,
        weights=micro_passes * gathered / 1e9,
        gradients=gradients / 1e9,
        host=host / 1e9,
        step=step / 1e9,
        step_s=(step / link + host / host_link) / LINK_SHARE,
        floor_s=max(step / link, host / host_link),
        validation=num_validation_passes * gathered / 1e9,
        validation_s=graded_s / LINK_SHARE,
    )


def link_gb_s(hardware: HardwareSpec) -> float:
    """Bandwidth of a ring's slowest link: over several nodes, the one between them."""
    links = [hardware.link_gb_s] + [hardware.node_link_gb_s] * (hardware.num_nodes > 1)
    return min(links)


def _ring_share(load: Workload) -> float:
    return 1 - 1 / load.hardware.num_ranks


def _pass_bytes(load: Workload) -> tuple[float, float]:
    """Weights that a pass brings from other ranks, and from host memory."""
    if not load.strategy.shards_weights:
        return 0.0, 0.0
    whole = weight_bytes(load)
    own = whole / load.hardware.num_ranks if load.strategy == OFFLOAD else 0.0
    return whole * _ring_share(load), own


def _gradient_bytes(load: Workload, accumulation: int) -> float:
    """Gradients reduced and updated weights gathered in a step.

    DDP reduces once a step, to every rank, which goes around the ring twice. DeepSpeed's stage 2
    does so for each micro-batch, though a rank needs but its shard, and gathers what was updated.
    Stage 3 and FSDP2 reduce each micro-batch to the rank that owns the shard.
    """
    once = _ring_share(load) * FLOAT32 * load.trainable
    if load.strategy == SINGLE:
        return 0.0
    if load.strategy == DDP:
        return 2 * once
    return (2 * accumulation + 1) * once if load.strategy == ZERO2 else accumulation * once


def _offloaded_state_bytes(load: Workload, accumulation: int) -> float:
    """A rank's share of gradients on their way to the host, and of updated weights back."""
    if load.strategy != OFFLOAD:
        return 0.0
    return (accumulation + 1) * FLOAT32 * load.trainable / load.hardware.num_ranks


def validation_passes(
    *, num_examples: int, num_ranks: int, batch_size: int, num_traits: int
) -> int:
    """Forward passes of one validation on each rank: prompts, then one a trait, batch by batch.

    The same on every rank, whatever the essays: all of a score's digits are looked at in one pass.
    """
    batches = math.ceil(math.ceil(num_examples / num_ranks) / batch_size)
    return batches * (1 + num_traits)
