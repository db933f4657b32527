"""A strategy -> what a device holds all through training, and what its node's host memory holds.

Knows the strategies' ways with weights, gradients and optimiser states; nothing of activations.

Source: Rajbhandari et al. (2020), ZeRO, section 3; DeepSpeed's defaults for stage 3.
"""

from __future__ import annotations

from aes.hardware import StrategySpec
from aes.plan.parameters import sum_parameters
from aes.plan.workload import FLOAT32, Workload, weight_bytes

SINGLE, DDP = StrategySpec(name="single"), StrategySpec(name="ddp")
ZERO2, ZERO3 = StrategySpec(name="zero2"), StrategySpec(name="zero3")
OFFLOAD, FSDP2 = StrategySpec(name="zero3_offload"), StrategySpec(name="fsdp2")

_BUCKET = 2e8
"""Most elements of a bucket of gradients, as our strategy sets it; fewer are all in one."""
_LIVE = 1e9
"""Weights that DeepSpeed keeps gathered at most, unless one module and the next are more."""
_ADAMW = 2 * FLOAT32
"""Bytes of the two moments."""


def state_shards(load: Workload) -> int:
    """Parts into which gradients and optimiser states are cut."""
    return 1 if load.strategy in (SINGLE, DDP) else load.hardware.num_ranks


def held_bytes(load: Workload) -> dict[str, float]:
    """Bytes that a device holds all through training, by what they are.

    DeepSpeed updates a float32 copy of the trained weights besides, its shard of them on each rank.
    Weights that are not sharded stand whole on every rank, the frozen base above all.
    """
    shards, trainable = state_shards(load), load.trainable
    held = dict.fromkeys(("weights", "gradients", "optimiser"), 0.0)
    if load.strategy != OFFLOAD:
        copy = FLOAT32 if load.strategy.uses_deepspeed else 0
        held["weights"] = weight_bytes(load) / (shards if load.strategy.shards_weights else 1)
        held["gradients"] = FLOAT32 * trainable / shards
        held["optimiser"] = (_ADAMW + copy) * trainable / shards
    gathered = _gathered_bytes(load) if load.strategy.shards_weights else 0.0
    return {**held, "gathered": gathered, "buffers": _buffer_bytes(load)}


def host_bytes(load: Workload) -> float:
    """What the strategy keeps in a node's host memory: shards that do not stand on devices.

    Loading adds next to nothing, since each tensor of the checkpoint is cut as soon as it is read.
    """
    if load.strategy != OFFLOAD:
        return 0.0
    states = (FLOAT32 + FLOAT32 + _ADAMW) * load.trainable  # gradient, float32 copy, moments
    return (weight_bytes(load) + states) / load.hardware.num_nodes


def layer_weights(load: Workload) -> float:
    """Weights of one decoder layer."""
    parts = ("attention", "experts", "router", "MLP", "norms")
    return sum_parameters(load.parameters, *parts).total / load.model.text.num_layers


def _gathered_bytes(load: Workload) -> float:
    """The module at work, the one fetched ahead, and the flat buffer in which it arrives.

    DeepSpeed keeps what more it has room for; FSDP2 keeps the head up to the backward pass.
    """
    head = sum_parameters(load.parameters, "lm_head").total
    embeddings = sum_parameters(load.parameters, "embeddings").total
    largest = max(layer_weights(load), embeddings, head)
    if load.strategy == FSDP2:
        return (3 * largest + head) * load.width_bytes
    live = max(2 * largest, min(_LIVE, sum_parameters(load.parameters).total))
    return (live + largest) * load.width_bytes


def _buffer_bytes(load: Workload) -> float:
    """Copies of gradients on their way between ranks.

    DDP copies all of them into its buckets. DeepSpeed fills a bucket while another is sent in stage
    2, and has one in stage 3. FSDP2 sends layer by layer, two at a time.
    """
    bucket = FLOAT32 * min(load.trainable, _BUCKET)
    return {
        "single": 0.0,
        "ddp": float(FLOAT32 * load.trainable),
        "zero2": 2 * bucket,
        "zero3": bucket,
        "zero3_offload": bucket,
        "fsdp2": 2 * FLOAT32 * load.trainable / load.model.text.num_layers,
    }[load.strategy.name]
