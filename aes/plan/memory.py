"""Geometry, lengths and hardware -> expected peak memory of a device while it trains.

Arithmetic alone. Does not know the allocator (a margin stands for it), nor validation, which holds
no activations and is taken to need less than training.

What is assumed: frozen weights are held at the hardware's precision and trained ones in float32;
AdamW; bf16 computes under autocast; attention stores no matrix of scores; logits are computed for
supervised positions only; a frozen vision tower runs without autograd.
"""

from __future__ import annotations

from dataclasses import dataclass

from aes.kernels.logits import ATTENDED, ROWS_OF_OTHER_HEADS, choose_rows
from aes.plan.parameters import sum_parameters
from aes.plan.sharding import OFFLOAD, held_bytes, host_bytes, state_shards
from aes.plan.workload import FLOAT32, GIB, Workload, trains_lm_head

# CUDA context, libraries and their workspaces; on a CPU the interpreter and its libraries.
_OVERHEAD_GIB = {"cuda": 1.5, "cpu": 1.0}
# Of a patch: 16 x 16 pixels of three colours, twice, as for two frames of a film.
_PATCH_NUMBERS = 1536
# Held back for what the allocator cannot use: pieces between differently sized batches.
SAFETY_MARGIN = 0.05


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Peak memory of one device in GiB, by what holds it.

    Attributes:
        gathered: Layers that a strategy which shards weights has gathered to compute with.
        buffers: Gradients on their way between ranks.
        features: Of pages, kept for later epochs, where the device computes in host memory.
        step: What AdamW's update needs beyond the activations and logits, which are gone by then.
        total: Sum of the parts.
        available: What the device has; ``None``: not known.
        host: What shards and kept features need of a node's host memory beside its devices; not
            part of the total.
    """

    weights: float
    gathered: float
    gradients: float
    optimiser: float
    buffers: float
    activations: float
    logits: float
    features: float
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
    on_cpu = load.hardware.accelerator == "cpu"
    features = feature_bytes(load)
    bytes_of = {
        **held_bytes(load),
        "activations": activation_bytes(load),
        "logits": logit_bytes(load),
        "features": features if on_cpu else 0.0,
        "overhead": _OVERHEAD_GIB[load.hardware.accelerator] * GIB,
    }
    working = bytes_of["activations"] + bytes_of["logits"]
    # torch's foreach AdamW keeps a temporary of the size of the weights that it updates.
    update = FLOAT32 * load.trainable / state_shards(load)
    is_on_host = load.strategy == OFFLOAD
    bytes_of["step"] = 0.0 if is_on_host else max(0.0, update - working)
    parts = {name: num_bytes / GIB for name, num_bytes in bytes_of.items()}
    available = load.hardware.memory_gib or machine_memory_gib
    host = (host_bytes(load) + (0.0 if on_cpu else features * load.hardware.devices)) / GIB
    return MemoryPlan(**parts, total=sum(parts.values()), available=available, host=host)


def feature_bytes(load: Workload) -> float:
    """Features of pages that a rank keeps in host memory, at most."""
    kept = load.page_features
    if not load.caches_vision or kept is None or kept.place != "memory":
        return 0.0
    return min(kept.num_bytes, kept.max_bytes)


def layer_bytes_per_token(load: Workload) -> float:
    """What autograd keeps of one token in one decoder layer of which nothing is recomputed.

    Source: the tensors saved by transformers' Qwen3-VL layers, counted with
    ``torch.autograd.graph.saved_tensors_hooks``; the test of this module counts them again.
    """
    norms = _norm_bytes(load, 2 * load.model.text.hidden_size, num_rows=2)
    return norms + _attention_bytes_per_token(load) + _mlp_bytes_per_token(load)


def _norm_bytes(load: Workload, width: int, *, num_rows: int) -> float:
    """Inputs of norms, in float32 unless fused; then also the factor of each row."""
    return load.width_bytes * width + FLOAT32 * num_rows if load.is_fused else FLOAT32 * width


def _attention_bytes_per_token(load: Workload) -> float:
    """Inputs of projections, of the norms of q and k, and of the product; all within attention."""
    text, width = load.model.text, load.width_bytes
    hidden, heads = text.hidden_size, text.num_heads * text.head_dim
    kv_heads = text.num_kv_heads * text.head_dim
    norms = _norm_bytes(load, heads + kv_heads, num_rows=text.num_heads + text.num_kv_heads)
    # q, k, v and the output; k and v are repeated for all heads where there is a mask, of which
    # each token has a row.
    product = width * (2 * heads + 2 * (heads if load.is_masked else kv_heads))
    row = load.batch_tokens if load.is_packed else load.max_tokens
    mask = width * row if load.is_masked else 0
    # Autocast gives q, k and v a cast of their input each; float32 shares one, and o's input too,
    # unless that was put together from samples.
    shares = width == FLOAT32
    inputs = hidden + heads * load.is_packed if shares else 3 * hidden + heads
    lora = width * 4 * load.rank
    return norms + product + mask + width * inputs + lora


def _mlp_bytes_per_token(load: Workload) -> float:
    """Gate, its activation and up; for experts also their outputs, weighted by the router.

    Fused operations keep no activation, but are not for transformers' own experts.
    """
    text, width = load.model.text, load.width_bytes
    if load.keeps_pre_activations_alone:
        # Gate and up, and of the routing: probabilities, choices and their order.
        inner = 2 * text.experts_per_token * text.expert_intermediate_size
        return width * inner + FLOAT32 * text.num_experts + 24 * text.experts_per_token
    if text.num_experts:
        inner = text.experts_per_token * text.expert_intermediate_size
        outer = text.experts_per_token * text.hidden_size
    else:
        inner, outer = text.intermediate_size, 0
    kept = 2 if load.is_fused and not text.num_experts else 3
    is_trained = sum_parameters(load.parameters, "experts", "MLP", "LoRA: experts").trainable > 0
    inputs = inner + (outer or text.hidden_size) if is_trained else 0
    return width * (kept * inner + outer + inputs)


def kept_bytes(load: Workload) -> float:
    """What the layers keep of one micro-batch, at most at once, with what is recomputed.

    A layer that is recomputed keeps its input; while it is, it stands there in full, but those
    behind it are gone.
    """
    text = load.model.text
    num_tokens = load.batch_tokens
    layer = num_tokens * layer_bytes_per_token(load) + _merged_expert_bytes(load)
    an_input = num_tokens * text.hidden_size * load.width_bytes
    if load.checkpointing.policy == "attention":
        layer -= num_tokens * _attention_bytes_per_token(load) - an_input
    whole = load.checkpointing.whole_layers(text.num_layers)
    num_whole, num_kept = sum(whole), text.num_layers - sum(whole)
    if num_whole:
        num_behind = whole[::-1].index(True)
        num_kept = max(num_kept, num_kept - num_behind + 1)
    return num_whole * an_input + num_kept * layer


def activation_bytes(load: Workload) -> float:
    """Kept for the backward pass of one micro-batch, with the largest transient on top.

    The logits are gone when that comes, so that only what is larger than they counts.
    """
    transient = max(0.0, _transient_bytes(load) - logit_bytes(load))
    working = kept_bytes(load) + transient + _trained_cast_bytes(load) + _patch_bytes(load)
    vision = _vision_bytes(load)
    return working + vision if _trains_vision(load) else max(working, vision)


def _patch_bytes(load: Workload) -> float:
    """The pages of a micro-batch as the collator gives them: four float32 patches a token."""
    return load.hardware.micro_batch_size * load.max_image_tokens * 4 * _PATCH_NUMBERS * FLOAT32


def _transient_bytes(load: Workload) -> float:
    """Gradients on the way through one layer, about as large as what it keeps of its MLP.

    Of experts that keep pre-activations alone: gradients of their outputs, of their inputs, of the
    activation, and of the pre-activation. Recomputed attention is there a layer at a time.
    """
    text = load.model.text
    mlp = _mlp_bytes_per_token(load)
    if load.keeps_pre_activations_alone:
        wide = 2 * text.hidden_size + 4 * text.expert_intermediate_size
        mlp = load.width_bytes * text.experts_per_token * wide
    again = load.checkpointing.policy == "attention"
    attention = _attention_bytes_per_token(load) if again else 0.0
    return load.batch_tokens * max(mlp, attention) + _merged_expert_bytes(load)


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
    if vision is None:
        return 0.0
    num_samples = 1 if load.caches_vision else load.hardware.micro_batch_size
    num_patches = 4 * num_samples * load.max_image_tokens
    block = 8 * vision.hidden_size + 2 * vision.intermediate_size
    saved = 0
    if _trains_vision(load):
        is_recomputed = load.checkpointing.policy == "all"
        saved = vision.depth * (vision.hidden_size if is_recomputed else block)
    return num_patches * load.width_bytes * (block + saved)


def logit_bytes(load: Workload) -> float:
    """Logits of the supervised rows: as computed, in float32, as log-probabilities, as gradient.

    In chunks they become their own gradient; that of a trained head is made with them.
    """
    text, width = load.model.text, load.width_bytes
    rows = load.hardware.micro_batch_size * load.max_supervised
    cast = width if width != FLOAT32 else 0
    at_once = choose_rows(load.kernels.logit_rows, load.hardware.accelerator)
    if at_once is None:
        return rows * text.vocab_size * (3 * FLOAT32 + cast)
    if at_once == ATTENDED and (cast or trains_lm_head(load)):
        at_once = ROWS_OF_OTHER_HEADS
    gradient = FLOAT32 * text.hidden_size * text.vocab_size if trains_lm_head(load) else 0
    return min(rows, at_once) * text.vocab_size * (FLOAT32 + cast) + gradient
