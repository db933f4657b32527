"""Everything about a run that decides what a device holds, computes and sends.

The common ground of the plan's arithmetic on memory, communication and time.
"""

from __future__ import annotations

from dataclasses import dataclass

from aes.hardware import HardwareSpec, StrategySpec
from aes.model import ModelSpec
from aes.plan.parameters import Parameters, sum_parameters

GIB = 2**30
FLOAT32 = 4
"""Bytes of a trained weight, its gradient and each of AdamW's moments."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Everything that decides how much memory a device needs.

    Attributes:
        parameters: Part of the model -> (parameters, trained ones).
        checkpointing: Layers are recomputed in the backward pass.
        rank: Of LoRA; 0 without.
        max_tokens: Longest sample, to which a micro-batch is padded.
        max_image_tokens: Most image tokens of a sample.
        max_supervised: Most supervised tokens of a sample.
    """

    model: ModelSpec
    parameters: Parameters
    hardware: HardwareSpec
    strategy: StrategySpec
    checkpointing: bool
    rank: int
    max_tokens: int
    max_image_tokens: int
    max_supervised: int

    @property
    def width_bytes(self) -> int:
        """Bytes of an activation or a frozen weight."""
        return 2 if self.hardware.precision == "bf16" else FLOAT32

    @property
    def trainable(self) -> int:
        """Trained weights."""
        return sum_parameters(self.parameters).trainable


def weight_bytes(load: Workload) -> int:
    """All weights of the model, frozen ones at ``width_bytes`` and trained ones in float32."""
    total, trainable = sum_parameters(load.parameters)
    return (total - trainable) * load.width_bytes + trainable * FLOAT32
