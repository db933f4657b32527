"""Geometry, lengths, steps and hardware -> how long a run takes and what it costs.

Two figures. The floor is arithmetic: matrix products at the device's peak, no micro-batch faster
than its weights can be read, no step faster than its bytes can arrive, and all three at once. The
expectation takes compute at an assumed utilisation, and communication on top of it: layers are
gathered ahead while others compute, but nobody has measured how much of it that hides. Loading
weights and starting processes are not counted. On a CPU it may be off by a factor of three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from aes.plan.communication import CommunicationPlan
from aes.plan.lengths import LengthSummary
from aes.plan.parameters import sum_parameters
from aes.plan.steps import StepPlan
from aes.plan.workload import Workload, trains_lm_head, weight_bytes

# Share of the floor's speed that is assumed to be reached. The GPU's is a cautious guess; with the
# CPU's the nano model takes the 0.7 s for a step of 8 that were measured on two cores.
UTILISATION = {"cuda": 0.25, "cpu": 0.5}
# Seconds to draw and tokenise one sample in one process; loader processes share it.
_HOST_S_PER_SAMPLE = 0.03


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """Durations in seconds, cost in the currency of the hardware's price.

    Attributes:
        tflop_per_step: Of a full global batch, over all devices; pages that are computed once and
            kept are spread over all steps.
        floor_s: Training at the device's measured peaks.
        expected_s: Training as expected.
        communication_s: Part of it in which ranks wait for each other's bytes.
        validation_s: All validations as expected.
        total_s: Expected training and validation.
        utilisation: Share of the peak that was assumed.
        cost: Of ``total_s``; ``None`` if the price is not known.
    """

    tflop_per_step: float
    floor_s: float
    expected_s: float
    communication_s: float
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
    communication: CommunicationPlan,
    num_traits: int,
    global_batch_size: int,
    validation_batch_size: int,
) -> TimePlan:
    """Expected duration and cost of training and its validations.

    Args:
        load: What a device holds and computes.
        train: What is trained on.
        validation: What is graded at each validation.
        steps: How many samples and validations there are.
        communication: Of a step and a validation.
        num_traits: Scores of an answer.
        global_batch_size: Samples per optimiser step.
        validation_batch_size: Examples that are decoded together.
    """
    hardware = load.hardware
    utilisation = UTILISATION[hardware.accelerator]
    vision, language = _training_flops(load, train)
    flops = vision * computed_share(load, steps.samples / max(1, train.num_examples)) + language
    compute_s = max(
        flops * steps.samples / hardware.num_ranks / (hardware.peak_tflops * 1e12),
        steps.micro_batches * _passes(load) * _stream_s(load),
    )
    full_steps = steps.micro_batches / steps.accumulation
    communication_s = communication.step_s * full_steps
    host_s = _HOST_S_PER_SAMPLE * steps.samples / hardware.num_ranks / max(1, hardware.num_workers)
    device_s = compute_s / utilisation + communication_s
    # On a CPU the loader runs on the cores that compute.
    on_cpu = hardware.accelerator == "cpu"
    expected_s = device_s + host_s if on_cpu else max(device_s, host_s)
    validation_s = (
        _validation_s(load, validation, validation_batch_size, num_traits) / utilisation
        + communication.validation_s
    ) * len(steps.validations)
    total_s = expected_s + validation_s
    price = hardware.price_per_hour * hardware.num_nodes
    return TimePlan(
        tflop_per_step=flops * global_batch_size / 1e12,
        floor_s=max(compute_s, communication.floor_s * full_steps),
        expected_s=expected_s,
        communication_s=communication_s,
        validation_s=validation_s,
        total_s=total_s,
        utilisation=utilisation,
        cost=price * total_s / 3600 if price else None,
    )


def computed_share(load: Workload, num_epochs: float) -> float:
    """Share of all pages that a run computes; the features of the others are there.

    Args:
        num_epochs: Times that the run goes over its samples; the last may be cut short.
    """
    kept, num_ranks = load.page_features, load.hardware.num_ranks
    if not load.caches_vision or kept is None or not num_epochs:
        return 1.0
    found = sum(
        min(1.0, num_epochs - epoch) * kept.found_share(epoch, num_ranks=num_ranks)
        for epoch in range(math.ceil(num_epochs))
    )
    return 1 - found / num_epochs


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
    if vision is not None:
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


def _training_flops(load: Workload, lengths: LengthSummary) -> tuple[float, float]:
    """Forward and backward of a sample: of its pages, and of everything else.

    A backward pass costs a forward for the gradients of the inputs, and as much again for those of
    trained weights; recomputing costs one more, but not for ``lm_head``. Flash attention's backward
    recomputes its scores: five products to the forward's two (Dao, 2023, FlashAttention-2).
    """
    flops = forward_flops(load, lengths)
    body = ("attention", "experts", "router", "MLP")
    total, trained = sum_parameters(load.parameters, *body)
    trained_share = trained / total if total else 0.0
    tower = sum_parameters(load.parameters, "vision tower", "LoRA: vision")
    vision = 1.0
    if tower.trainable:
        vision = 2 + tower.trainable / tower.total + (load.checkpointing.policy == "all")
    return flops.vision * vision, (
        flops.layers * (2 + trained_share)
        + flops.attention * 3.5
        + flops.lm_head * (3 if trains_lm_head(load) else 2)
        + recompute_flops(load, lengths)
    )


def recompute_flops(load: Workload, lengths: LengthSummary) -> float:
    """Floating-point operations of a sample that are done again in the backward pass."""
    flops = forward_flops(load, lengths)
    if load.checkpointing.policy == "attention":
        weights = sum_parameters(load.parameters, "attention", "LoRA: attention").total
        return 2 * lengths.mean_tokens * weights + flops.attention
    return _share_of_whole_layers(load) * (flops.layers + flops.attention)


def _share_of_whole_layers(load: Workload) -> float:
    whole = load.checkpointing.whole_layers(load.model.text.num_layers)
    return sum(whole) / len(whole)


def _passes(load: Workload) -> float:
    """Times that a micro-batch reads all weights; those of attention alone are few."""
    return 2 + _share_of_whole_layers(load)


def _stream_s(load: Workload) -> float:
    """Seconds to read every weight once; a batch of essays touches nearly all experts."""
    return weight_bytes(load) / (load.hardware.memory_bandwidth_tb_s * 1e12)


def _validation_s(
    load: Workload, lengths: LengthSummary, batch_size: int, num_traits: int
) -> float:
    """Floor of one validation: prompts in one pass, then one of a few tokens for each trait.

    Each pass reads all weights once for the whole batch; what a few tokens compute is left out.
    """
    hardware = load.hardware
    num = math.ceil(lengths.num_examples / hardware.num_ranks)
    batches = math.ceil(num / batch_size)
    prompt = lengths  # and answer, where validation takes its loss
    if num_traits:
        num_tokens = lengths.mean_tokens - lengths.mean_supervised
        prompt = replace(lengths, mean_tokens=num_tokens, mean_supervised=1.0)
    compute_s = num * forward_flops(load, prompt).forward / (hardware.peak_tflops * 1e12)
    stream_s = batches * _stream_s(load)
    return max(compute_s, stream_s) + num_traits * stream_s
