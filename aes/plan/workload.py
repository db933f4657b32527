"""Everything about a run that decides what a device holds, computes and sends.

The common ground of the plan's arithmetic on memory, communication and time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aes.hardware import HardwareSpec, StrategySpec
from aes.kernels.checkpointing import Policy, is_recomputed
from aes.model import KernelSpec, ModelSpec
from aes.model.quantization import QUANTIZED_GROUPS, bytes_per_weight
from aes.plan.parameters import Parameters, sum_parameters

if TYPE_CHECKING:
    from aes.model.vision_cache import KeptFeatures

GIB = 2**30
FLOAT32 = 4
"""Bytes of a trained weight, its gradient and each of AdamW's moments."""


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """What the backward pass computes again.

    Attributes:
        every: The n of ``every_nth``; of no meaning otherwise.
    """

    policy: Policy
    every: int

    def whole_layers(self, num_layers: int) -> tuple[bool, ...]:
        """Whether each decoder layer is computed again as a whole."""
        return tuple(is_recomputed(i, self.policy, self.every) for i in range(num_layers))

    @property
    def words(self) -> str:
        """For people."""
        return {
            "none": "nothing recomputed",
            "attention": "attention recomputed",
            "every_nth": f"one layer of {self.every} recomputed",
            "all": "all layers recomputed",
        }[self.policy]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Everything that decides how much memory a device needs.

    Attributes:
        parameters: Part of the model -> (parameters, trained ones).
        checkpointing: What is recomputed in the backward pass.
        kernels: How passes are computed, without ``auto`` but for the logits.
        is_packed: Samples of a micro-batch stand end to end; else they are padded to the longest.
        page_features: What is kept of what the vision tower makes of pages; ``None``: nothing.
        rank: Of LoRA; 0 without.
        longest_tokens: Tokens of the longest samples, the longest first, at least a micro-batch.
        max_batch_tokens: Limit of a micro-batch; ``None``: its samples alone.
        max_image_tokens: Most image tokens of a sample.
        max_supervised: Most supervised tokens of a sample.
    """

    model: ModelSpec
    parameters: Parameters
    hardware: HardwareSpec
    strategy: StrategySpec
    checkpointing: Checkpointing
    kernels: KernelSpec
    is_packed: bool
    page_features: KeptFeatures | None
    rank: int
    longest_tokens: tuple[int, ...]
    max_batch_tokens: int | None
    max_image_tokens: int
    max_supervised: int

    @property
    def width_bytes(self) -> int:
        """Bytes of an activation or a frozen weight."""
        return 2 if self.hardware.precision == "bf16" else FLOAT32

    @property
    def max_tokens(self) -> int:
        """Longest sample."""
        return max(self.longest_tokens, default=0)

    @property
    def batch_tokens(self) -> int:
        """Tokens of the largest micro-batch there can be, padding included."""
        size = self.hardware.micro_batch_size
        tokens = size * self.max_tokens
        if self.is_packed:
            tokens = sum(self.longest_tokens[:size])
        if self.max_batch_tokens is None:
            return tokens
        return min(tokens, max(self.max_batch_tokens, self.max_tokens))

    @property
    def caches_vision(self) -> bool:
        """Whether pages are computed one by one and their features kept."""
        kept = self.page_features
        return kept is not None and kept.place != "none" and not self.strategy.shards_weights

    @property
    def is_masked(self) -> bool:
        """Whether attention is told by a mask who sees whom."""
        return self.kernels.attention != "varlen"

    @property
    def keeps_pre_activations_alone(self) -> bool:
        """Whether experts are computed by our own kernel for frozen ones."""
        return self.kernels.experts == "frozen"

    @property
    def is_fused(self) -> bool:
        """Whether norms and activations keep their inputs alone."""
        return self.kernels.fused_ops == "all"

    @property
    def trainable(self) -> int:
        """Trained weights."""
        return sum_parameters(self.parameters).trainable


def trains_lm_head(load: Workload) -> bool:
    """Whether the head's weights get a gradient."""
    head = sum_parameters(load.parameters, "lm_head").trainable
    return bool(head) or "lm_head" in load.model.modules_to_save


def weight_bytes(load: Workload) -> float:
    """All weights of the model, frozen ones at ``width_bytes`` or less and trained ones in float32.

    Those that a quantized model holds in few bits are all frozen.
    """
    total, trainable = sum_parameters(load.parameters)
    whole = (total - trainable) * load.width_bytes + trainable * FLOAT32
    narrow = bytes_per_weight(load.model.quantization, load.width_bytes)
    quantized = sum_parameters(load.parameters, *QUANTIZED_GROUPS)
    return whole - (quantized.total - quantized.trainable) * (load.width_bytes - narrow)
