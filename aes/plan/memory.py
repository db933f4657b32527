"""Geometry, lengths and hardware -> expected peak memory of a device while it trains.

Arithmetic alone. Does not know the allocator (a margin stands for it), nor validation, which holds
no activations and is taken to need less than training.

What is assumed: frozen weights are held at the hardware's precision and trained ones in float32;
AdamW; bf16 computes under autocast; attention stores no matrix of scores; logits are computed for
supervised positions only; a frozen vision tower runs without autograd.
"""

from __future__ import annotations

from dataclasses import dataclass

from aes.plan.parameters import sum_parameters
from aes.plan.sharding import OFFLOAD, held_bytes, host_bytes, state_shards
from aes.plan.workload import FLOAT32, GIB, Workload

# CUDA context, libraries and their workspaces; on a CPU the interpreter and its libraries.
_OVERHEAD_GIB = {"cuda": 1.5, "cpu": 1.0}
# Held back for what the allocator cannot use: pieces between differently sized batches.
SAFETY_MARGIN = 0.05


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Peak memory of one device in GiB, by what holds it.

    Attributes:
        gathered: Layers that a strategy which shards weights has gathered to compute with.
        buffers: Gradients on their way between ranks.
        step: What AdamW's update needs beyond the activations and logits, which are gone by then.
        total: Sum of the parts.
        available: What the device has; ``None``: not known.
        host: What shards need of a node's host memory; not part of the total.
    """

    weights: float
    gathered: float
    gradients: float
    optimiser: float
    buffers: float
    activations: float
    logits: float
    step: float
    overhead: float
    total: float
    available: float | None
    host: float

    @property
    def fits(self) -> bool | None:
        """Whether the total stays within the device less the margin; ``None``: not known."""
        if self.available is None:
            return None
        return self.total <= self.available * (1 - SAFETY_MARGIN)


def plan_memory(load: Workload, *, machine_memory_gib: float | None = None) -> MemoryPlan:
    """Expected peak memory of one device.

    Args:
        load: The run.
        machine_memory_gib: Memory per device of the machine at hand, for hardware that names none.
    """
    bytes_of = {
        **held_bytes(load),
        "activations": activation_bytes(load),
        "logits": logit_bytes(load),
        "overhead": _OVERHEAD_GIB[load.hardware.accelerator] * GIB,
    }
    working = bytes_of["activations"] + bytes_of["logits"]
    # torch's foreach AdamW keeps a temporary of the size of the weights that it updates.
    update = FLOAT32 * load.trainable / state_shards(load)
    is_on_host = load.strategy == OFFLOAD
    bytes_of["step"] = 0.0 if is_on_host else max(0.0, update - working)
    parts = {name: num_bytes / GIB for name, num_bytes in bytes_of.items()}
    available = load.hardware.memory_gib or machine_memory_gib
    host = host_bytes(load) / GIB
    return MemoryPlan(**parts, total=sum(parts.values()), available=available, host=host)


def layer_bytes_per_token(load: Workload) -> float:
    """What autograd keeps of one token in one decoder layer.

    Source: the tensors saved by transformers' Qwen3-VL layers, counted with
    ``torch.autograd.graph.saved_tensors_hooks``; the test of this module counts them again.
    """
    text, width = load.model.text, load.width_bytes
    hidden, heads = text.hidden_size, text.num_heads * text.head_dim
    kv_heads = text.num_kv_heads * text.head_dim
    norms = FLOAT32 * (2 * hidden + heads + kv_heads)  # inputs of four norms, in float32
    attention = width * 4 * heads  # q, k and v (repeated for all heads), output
    mask = width * load.max_tokens  # one row of the padding mask
    # Autocast gives q, k and v a cast of their input each; float32 shares one, and o's input too.
    inputs = width * (3 * hidden + heads) if width != FLOAT32 else width * hidden
    lora = width * 4 * load.rank
    return norms + attention + mask + inputs + lora + _mlp_bytes_per_token(load)


def _mlp_bytes_per_token(load: Workload) -> float:
    """Gate, its activation and up; for experts also their outputs, weighted by the router."""
    text, width = load.model.text, load.width_bytes
    if text.num_experts:
        inner = text.experts_per_token * text.expert_intermediate_size
        outer = text.experts_per_token * text.hidden_size
    else:
        inner, outer = text.intermediate_size, 0
    is_trained = sum_parameters(load.parameters, "experts", "MLP", "LoRA: experts").trainable > 0
    inputs = inner + (outer or text.hidden_size) if is_trained else 0
    return width * (3 * inner + outer + inputs)


def activation_bytes(load: Workload) -> float:
    """Saved for the backward pass of one micro-batch, with the largest transient on top.

    With checkpointing, the input of every layer stays, and one layer is there in full.
    """
    text, width = load.model.text, load.width_bytes
    num_tokens = load.hardware.micro_batch_size * load.max_tokens
    layer = num_tokens * layer_bytes_per_token(load) + _merged_expert_bytes(load)
    if load.checkpointing:
        saved = num_tokens * text.num_layers * text.hidden_size * width + layer
    else:
        saved = text.num_layers * layer
    # Gradients on the way through one layer are about as large as what it saved of its MLP.
    transient = num_tokens * _mlp_bytes_per_token(load) + _merged_expert_bytes(load)
    working = saved + transient + _trained_cast_bytes(load)
    vision = _vision_bytes(load)
    return working + vision if _trains_vision(load) else max(working, vision)


def _merged_expert_bytes(load: Workload) -> float:
    """PEFT adds LoRA to fused experts as whole matrices, which autograd keeps layer by layer."""
    if not sum_parameters(load.parameters, "LoRA: experts").trainable:
        return 0.0
    experts = sum_parameters(load.parameters, "experts").total
    return experts / load.model.text.num_layers * load.width_bytes


def _trained_cast_bytes(load: Workload) -> float:
    """Autocast keeps a bf16 cast of each trained weight until the backward pass is over."""
    if load.width_bytes == FLOAT32:
        return 0.0
    return 2 * sum_parameters(load.parameters).trainable


def _trains_vision(load: Workload) -> bool:
    return sum_parameters(load.parameters, "vision tower", "LoRA: vision").trainable > 0


def _vision_bytes(load: Workload) -> float:
    """The tower at its widest: one block, and what the others saved if the tower is trained.

    Four patches make a token. A block holds its input, two norms, q, k, v, the output and both
    sides of its MLP.
    """
    vision = load.model.vision
    num_patches = 4 * load.hardware.micro_batch_size * load.max_image_tokens
    block = 8 * vision.hidden_size + 2 * vision.intermediate_size
    saved = 0
    if _trains_vision(load):
        saved = vision.depth * (vision.hidden_size if load.checkpointing else block)
    return num_patches * load.width_bytes * (block + saved)


def logit_bytes(load: Workload) -> float:
    """Logits of the supervised rows: as computed, in float32, as log-probabilities, as gradient."""
    rows = load.hardware.micro_batch_size * load.max_supervised
    copies = 3 * FLOAT32 + (load.width_bytes if load.width_bytes != FLOAT32 else 0)
    return rows * load.model.text.vocab_size * copies
