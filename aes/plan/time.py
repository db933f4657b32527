"""Geometry, lengths, steps and hardware -> how long a run takes and what it costs.

Two figures: a floor, which is arithmetic (matrix products at the device's peak, no micro-batch
faster than its weights can be read), and an expectation, which is the floor over an assumed
utilisation plus the work of the host. Loading weights and starting processes are not counted.
On a CPU the expectation may be off by a factor of three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from aes.plan.lengths import LengthSummary
from aes.plan.memory import Workload, weight_bytes
from aes.plan.parameters import sum_parameters
from aes.plan.steps import StepPlan

# Share of the floor's speed that is assumed to be reached. The GPU's is a cautious guess; with the
# CPU's the nano model takes the 0.7 s for a step of 8 that were measured on two cores.
UTILISATION = {"cuda": 0.25, "cpu": 0.5}
# Seconds to draw and tokenise one sample in one process; loader processes share it.
_HOST_S_PER_SAMPLE = 0.03


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """Durations in seconds, cost in the currency of the hardware's price.

    Attributes:
        tflop_per_step: Of a full global batch, over all devices.
        floor_s: Training at the device's measured peaks.
        expected_s: Training as expected.
        validation_s: All validations as expected.
        total_s: Expected training and validation.
        utilisation: Share of the peak that was assumed.
        cost: Of ``total_s``; ``None`` if the price is not known.
    """

    tflop_per_step: float
    floor_s: float
    expected_s: float
    validation_s: float
    total_s: float
    utilisation: float
    cost: float | None


@dataclass(frozen=True, kw_only=True)
class SampleFlops:
    """Floating-point operations of one sample's forward pass, by what repeats differently."""

    layers: float
    attention: float
    lm_head: float
    vision: float

    @property
    def forward(self) -> float:
        """All of a forward pass."""
        return self.layers + self.attention + self.lm_head + self.vision


def plan_time(
    load: Workload,
    *,
    train: LengthSummary,
    validation: LengthSummary,
    steps: StepPlan,
    ranges: Mapping[str, tuple[int, int]],
    global_batch_size: int,
    validation_batch_size: int,
) -> TimePlan:
    """Expected duration and cost of training and its validations.

    Args:
        load: What a device holds and computes.
        train: What is trained on.
        validation: What is graded at each validation.
        steps: How many samples and validations there are.
        ranges: Lowest and highest score by trait.
        global_batch_size: Samples per optimiser step.
        validation_batch_size: Examples that are decoded together.
    """
    hardware = load.hardware
    utilisation = UTILISATION[hardware.accelerator]
    flops = _training_flops(load, train)
    micro_s = max(
        flops * hardware.micro_batch_size / (hardware.peak_tflops * 1e12),
        _passes(load) * _stream_s(load),
    )
    num_micro = steps.samples / (hardware.micro_batch_size * hardware.num_ranks)
    floor_s = micro_s * num_micro
    host_s = _HOST_S_PER_SAMPLE * steps.samples / hardware.num_ranks / max(1, hardware.num_workers)
    expected_s = max(floor_s / utilisation, host_s)
    if hardware.accelerator == "cpu":  # the loader runs on the cores that compute
        expected_s = floor_s / utilisation + host_s
    validation_s = (
        len(steps.validations)
        * _validation_s(load, validation, validation_batch_size, count_score_forwards(ranges))
        / utilisation
    )
    total_s = expected_s + validation_s
    price = hardware.price_per_hour * hardware.num_nodes
    return TimePlan(
        tflop_per_step=flops * global_batch_size / 1e12,
        floor_s=floor_s,
        expected_s=expected_s,
        validation_s=validation_s,
        total_s=total_s,
        utilisation=utilisation,
        cost=price * total_s / 3600 if price else None,
    )


def forward_flops(load: Workload, lengths: LengthSummary) -> SampleFlops:
    """Forward pass of a sample of mean length: two operations a weight and token.

    Of the experts, only the chosen ones compute. Attention is causal in the language model (half
    of the square) and full within a page. ``lm_head`` sees supervised tokens only.
    Source: Kaplan et al. (2020), table 1.
    """
    text, vision = load.model.text, load.model.vision
    tokens = lengths.mean_tokens
    pages = lengths.num_pages / max(1, lengths.num_examples)
    page_patches = 4 * lengths.mean_page_tokens
    heads = text.num_heads * text.head_dim
    tower = sum_parameters(load.parameters, "vision tower").total
    mergers = sum_parameters(load.parameters, "merger").total
    page = 2 * page_patches * (tower + mergers / 4)
    page += 4 * page_patches**2 * vision.hidden_size * vision.depth
    return SampleFlops(
        layers=2 * tokens * _active_layers(load),
        attention=2 * tokens**2 * heads * text.num_layers,
        lm_head=2 * lengths.mean_supervised * text.hidden_size * text.vocab_size,
        vision=pages * page,
    )


def _active_layers(load: Workload) -> float:
    """Weights of the decoder layers that one token passes."""
    text = load.model.text
    always = ("attention", "router", "MLP", "norms", "LoRA: attention")
    share = text.experts_per_token / text.num_experts if text.num_experts else 0.0
    experts = sum_parameters(load.parameters, "experts", "LoRA: experts").total
    return sum_parameters(load.parameters, *always).total + share * experts


def _training_flops(load: Workload, lengths: LengthSummary) -> float:
    """Forward and backward of a sample.

    A backward pass costs a forward for the gradients of the inputs, and as much again for those of
    trained weights; recomputing costs one more, but not for ``lm_head``. Flash attention's backward
    recomputes its scores: five products to the forward's two (Dao, 2023, FlashAttention-2).
    """
    flops = forward_flops(load, lengths)
    recompute = 1 if load.checkpointing else 0
    body = ("attention", "experts", "router", "MLP")
    total, trained = sum_parameters(load.parameters, *body)
    trained_share = trained / total if total else 0.0
    tower = sum_parameters(load.parameters, "vision tower", "LoRA: vision")
    vision = 1 if not tower.trainable else 2 + tower.trainable / tower.total + recompute
    return (
        flops.layers * (2 + trained_share + recompute)
        + flops.attention * (3.5 + recompute)
        + flops.lm_head * (3 if _trains_lm_head(load) else 2)
        + flops.vision * vision
    )


def _trains_lm_head(load: Workload) -> bool:
    head = sum_parameters(load.parameters, "lm_head").trainable
    return bool(head) or "lm_head" in load.model.modules_to_save


def _passes(load: Workload) -> int:
    """Times that a micro-batch reads all weights."""
    return 3 if load.checkpointing else 2


def _stream_s(load: Workload) -> float:
    """Seconds to read every weight once; a batch of essays touches nearly all experts."""
    return weight_bytes(load) / (load.hardware.memory_bandwidth_tb_s * 1e12)


def count_score_forwards(ranges: Mapping[str, tuple[int, int]]) -> int:
    """Forward passes that grading a batch takes after its prompts: scores, and no feedback.

    One for each string of digits after which another may come, since every valid score is given
    its probability, and one for the chosen score and the fixed text up to the next trait.
    """
    feeds = max(0, len(ranges) - 1)  # nothing is read behind the last score
    for low, high in ranges.values():
        scores = [str(score) for score in range(low, high + 1)]
        feeds += len({score[:k] for score in scores for k in range(1, len(score))})
    return feeds


def _validation_s(
    load: Workload, lengths: LengthSummary, batch_size: int, num_forwards: int
) -> float:
    """Floor of one validation: prompts in one pass, then passes of a few tokens for the scores.

    Each pass reads all weights once for the whole batch; what a few tokens compute is left out.
    """
    hardware = load.hardware
    num = math.ceil(lengths.num_examples / hardware.num_ranks)
    batches = math.ceil(num / batch_size)
    prompt = replace(
        lengths, mean_tokens=lengths.mean_tokens - lengths.mean_supervised, mean_supervised=1.0
    )
    compute_s = num * forward_flops(load, prompt).forward / (hardware.peak_tflops * 1e12)
    stream_s = batches * _stream_s(load)
    return max(compute_s, stream_s) + num_forwards * stream_s
