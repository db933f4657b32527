from __future__ import annotations

import contextlib
import gc
import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from aes.data import BatchingSpec
from aes.hardware import HardwareSpec, StrategySpec
from aes.kernels.attention import no_mask, packing_of, use_attention
from aes.kernels.checkpointing import checkpoint_layers
from aes.kernels.parts import unwrap
from aes.model import KernelSpec, LoraSpec, ModelSpec
from aes.model.adapters import add_adapter
from aes.model.config import build_config
from aes.model.kernels import apply_kernels
from aes.model.loading import build_on_meta
from aes.plan import Plan, count_parameters
from aes.plan.memory import _trained_cast_bytes, kept_bytes
from aes.plan.workload import Checkpointing, Workload

Reference = Callable[..., Plan]


def test_weights_are_57_9_gib_in_bf16(reference: Reference) -> None:
    memory = reference().memory
    assert round(memory.weights, 1) == 57.9
    # LoRA: 4 bytes a gradient, 8 for AdamW's moments.
    assert memory.gradients == pytest.approx(4 * 6_684_672 / 2**30)
    assert memory.optimiser == pytest.approx(8 * 6_684_672 / 2**30)


def test_the_reference_job_fits_one_h800_only_with_checkpointing(reference: Reference) -> None:
    assert reference().memory.fits is True
    assert not reference().blockers
    plan = reference(checkpointing="none")
    assert plan.memory.fits is False
    (blocker,) = plan.blockers
    assert "would fit: trainer.gradient_checkpointing=all (" in blocker


def test_checkpointing_keeps_the_input_of_each_layer_and_one_layer(reference: Reference) -> None:
    with_it, without = reference().memory, reference(checkpointing="none").memory
    inputs = 48 * 2048 * 2 * (2 * 2048) / 2**30
    assert inputs < with_it.activations < without.activations / 10


def test_logits_are_of_supervised_rows(reference: Reference) -> None:
    # bf16, float32, log-probabilities, gradient: 14 bytes for each of 2 x 450 x 151,936.
    assert reference().memory.logits == pytest.approx(2 * 450 * 151_936 * 14 / 2**30)


def test_a_card_of_23_gib_needs_shards_or_a_smaller_model(reference: Reference) -> None:
    plan = reference(hardware={"memory_gib": 23.0})
    (blocker,) = plan.blockers
    assert "strategy=zero3 hardware.devices=4 hardware.micro_batch_size=1 (" in blocker
    assert "a smaller model" in blocker
    assert "max_tokens" not in blocker  # no limit makes the weights smaller


def test_a_remedy_is_named_only_if_the_run_fits_with_it(reference: Reference) -> None:
    tight = {"memory_gib": 68.0, "micro_batch_size": 8}
    plan = reference(hardware=tight)
    assert plan.memory.fits is False
    (blocker,) = plan.blockers
    for size in (4, 2, 1):
        smaller = reference(hardware={**tight, "micro_batch_size": size}).memory
        remedy = f"hardware.micro_batch_size={size} ({smaller.total:.1f} GiB)"
        assert (remedy in blocker) is smaller.fits
    assert "hardware.micro_batch_size=4" not in blocker
    assert "hardware.micro_batch_size=2" in blocker
    assert "micro_batch_size=3" not in blocker  # does not divide the global batch of 8


def test_a_shorter_limit_is_computed_where_the_longest_sample_is_the_trouble(
    reference: Reference, lengths: Callable[..., Any]
) -> None:
    data = {"train": lengths([60_000] * 8), "max_tokens": 60_000}
    plan = reference(data=data, hardware={"memory_gib": 72.0})
    found = re.search(r"data.max_tokens=(\d+) at micro-batch 1", plan.blockers[0])
    assert found
    limit = int(found.group(1))
    shorter = {"train": lengths([limit] * 8, supervised=450 * limit // 60_000), "max_tokens": limit}
    longer = {"train": lengths([limit + 128] * 8), "max_tokens": limit + 128}
    card = {"memory_gib": 72.0, "micro_batch_size": 1}
    assert reference(data=shorter, hardware=card).memory.fits is True
    assert reference(data=longer, hardware=card).memory.fits is False


@pytest.mark.parametrize("devices", [1, 4])
def test_strategies_that_would_fit_are_named_with_what_they_need(
    reference: Reference, devices: int
) -> None:
    card = {"memory_gib": 40.0, "devices": devices}
    given = "single" if devices == 1 else "ddp"
    (blocker,) = reference(hardware=card, strategy=given).blockers
    assert "strategy=zero2" not in blocker  # the base stands whole there too
    for name in ("fsdp2", "zero3", "zero3_offload"):
        on = card | ({} if name == "zero3_offload" else {"devices": 4})
        memory = reference(hardware=on, strategy=name).memory
        assert memory.fits
        more = " hardware.devices=4" if on != card else ""
        assert f"strategy={name}{more} ({memory.total:.1f} GiB)" in blocker


def test_the_micro_batch_that_fits_under_another_strategy_is_the_largest(
    reference: Reference,
) -> None:
    card = {"memory_gib": 30.0, "devices": 4, "micro_batch_size": 16}
    (blocker,) = reference(hardware=card, strategy="zero2", global_batch_size=64).blockers
    found = re.search(r"strategy=zero3 hardware.micro_batch_size=(\d+) \(", blocker)
    assert found
    for size, fits in ((int(found.group(1)), True), (2 * int(found.group(1)), False)):
        other = card | {"micro_batch_size": size}
        plan = reference(hardware=other, strategy="zero3", global_batch_size=64)
        assert plan.memory.fits is fits


def test_zero3_on_four_ranks_quarters_the_weights(reference: Reference) -> None:
    single, sharded = (
        reference().memory,
        reference(hardware={"devices": 4}, strategy="zero3").memory,
    )
    assert sharded.weights == pytest.approx(single.weights / 4)
    assert sharded.gathered > 2 * 28_991_029_248 / 48 * 2 / 2**30
    assert sharded.total < 24
    zero2 = reference(hardware={"devices": 4}, strategy="zero2").memory
    assert zero2.weights == single.weights
    assert zero2.gradients == pytest.approx(single.gradients / 4)


def test_ddp_copies_everything_and_buckets_besides(reference: Reference) -> None:
    single, ddp = reference().memory, reference(hardware={"devices": 4}, strategy="ddp").memory
    assert ddp.weights == single.weights
    assert ddp.optimiser == single.optimiser
    assert ddp.gradients == ddp.buffers == single.gradients
    assert single.buffers == 0


def test_training_every_weight_takes_16_bytes_each(reference: Reference) -> None:
    memory = reference(parameters={"MLP": (10**9, 10**9)}).memory
    assert memory.weights + memory.gradients + memory.optimiser == pytest.approx(16e9 / 2**30)


def test_without_the_devices_memory_there_is_no_verdict(reference: Reference) -> None:
    plan = reference(hardware={"memory_gib": None})
    assert plan.memory.fits is None
    assert not plan.blockers
    small = reference(hardware={"memory_gib": None}, machine_memory_gib=16.0)
    assert small.memory.fits is False


def test_chunked_logits_are_of_the_rows_at_once(
    reference: Reference, fast_kernels: KernelSpec
) -> None:
    """In bf16 as computed and in float32; of a trained head also its gradient."""
    hardware = {"micro_batch_size": 8}
    memory = reference(kernels=fast_kernels, hardware=hardware).memory
    assert memory.logits == pytest.approx(1024 * 151_936 * 6 / 2**30)
    few = reference(kernels=replace(fast_kernels, logit_rows=100)).memory
    assert few.logits == pytest.approx(100 * 151_936 * 6 / 2**30)
    trained = {**reference().parameters, "lm_head": (311_164_928, 311_164_928)}
    more = reference(kernels=fast_kernels, hardware=hardware, parameters=trained).memory
    assert more.logits - memory.logits == pytest.approx(4 * 311_164_928 / 2**30)


def test_packed_samples_fill_a_micro_batch_with_what_they_are(
    reference: Reference, fast_kernels: KernelSpec, make_batching: Callable[..., BatchingSpec]
) -> None:
    """2,048 and 1,065 tokens end to end, or twice 2,048 padded; or no more than the limit."""
    padded, packed, limited = (
        reference(
            kernels=fast_kernels,
            checkpointing="none",
            batching=make_batching(layout=layout, max_tokens=limit),
        ).memory.activations
        for layout, limit in (("padded", None), ("packed", None), ("packed", 2048))
    )
    assert packed / padded == pytest.approx((2048 + 1065) / (2 * 2048), rel=0.01)
    assert limited / padded == pytest.approx(1 / 2, rel=0.01)


class Step(NamedTuple):
    """How a language model is run once."""

    spec: ModelSpec
    adapter: LoraSpec
    precision: str
    checkpointing: Checkpointing
    kernels: KernelSpec
    num_tokens: int


@pytest.fixture(scope="module")
def allocations() -> Any:
    """The benchmark's count of what tensors hold."""
    benchmark = Path(__file__).parents[3] / "benchmarks" / "plan_memory.py"
    return runpy.run_path(str(benchmark))["AllocationPeak"]


def _bytes_behind_forward(step: Step, allocations: Any) -> int:
    """Bytes that are still there behind the language model's forward pass, for its backward."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    dtype = torch.bfloat16 if step.precision == "bf16" else torch.float32
    model: Any = AutoModelForImageTextToText.from_config(build_config(step.spec), dtype=dtype)
    model = add_adapter(model, step.adapter)
    for weight in model.parameters():
        weight.data = weight.data.float() if weight.requires_grad else weight.data
    apply_kernels(model, step.kernels)
    use_attention(model, step.kernels.attention)  # type: ignore[arg-type]
    checkpoint_layers(model, step.checkpointing.policy, step.checkpointing.every)
    language_model = unwrap(model).model.language_model.train()
    inputs = _inputs(step.num_tokens, is_packed=step.kernels.attention == "varlen")
    casts = (
        torch.autocast("cpu", torch.bfloat16)
        if step.precision == "bf16"
        else contextlib.nullcontext()
    )
    with casts, allocations(model.parameters()) as held:
        before = held.held
        output = language_model(**inputs, use_cache=False)
        del inputs
        gc.collect()
        kept = held.held - before
    del output
    return int(kept)


def _inputs(num_tokens: int, *, is_packed: bool) -> dict[str, Any]:
    """Two samples, padded or end to end."""
    ids = torch.randint(0, 499, (2, num_tokens))
    if not is_packed:
        mask = torch.ones_like(ids)
        mask[0, -5:] = 0
        return {"input_ids": ids, "attention_mask": mask}
    device = torch.device("cpu")
    return {
        "input_ids": ids.view(1, -1),
        "position_ids": torch.arange(num_tokens).repeat(4, 1, 2),
        "attention_mask": no_mask(device),
        "packing": packing_of(torch.tensor([num_tokens, num_tokens]), device),
    }


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    ("body", "experts", "attention", "policy"),
    [
        ("dense", "eager", "sdpa", "none"),
        ("experts", "grouped_mm", "sdpa", "none"),
        ("experts trained", "grouped_mm", "sdpa", "none"),
        ("dense", "eager", "varlen", "none"),
        ("experts", "frozen", "varlen", "none"),
        ("experts", "frozen", "varlen", "attention"),
        ("experts", "frozen", "varlen", "every_nth"),
        ("experts", "grouped_mm", "sdpa", "all"),
    ],
)
def test_layers_keep_what_they_really_keep(
    model_spec: Callable[[str], ModelSpec],
    h800: HardwareSpec,
    plain_kernels: KernelSpec,
    allocations: Any,
    body: str,
    experts: Any,
    attention: Any,
    policy: Any,
    precision: Any,
) -> None:
    """Counts what real layers hold (2 x 128 tokens, hidden 320) against the arithmetic."""
    sizes: dict[str, Any] = {
        "hidden_size": 320,
        "intermediate_size": 704,
        "num_heads": 8,
        "expert_intermediate_size": 112,
        "vocab_size": 500,
    }
    if body == "dense":
        sizes |= {"num_experts": 0, "experts_per_token": 0, "expert_intermediate_size": 0}
    nano = model_spec("nano")
    targets: Any = ("attention", "experts") if body == "experts trained" else ("attention",)
    adapter = LoraSpec(
        rank=8, alpha=16, dropout=0.0, targets=targets, modules_to_save=(), init_from=None
    )
    fused: Any = "all" if attention == "varlen" else "none"
    kernels = replace(plain_kernels, experts=experts, attention=attention, fused_ops=fused)
    checkpointing = Checkpointing(policy=policy, every=2)
    kept, planned = [], []
    for num_layers in (2, 6):
        spec = replace(
            nano,
            architecture="qwen3_vl" if body == "dense" else "qwen3_vl_moe",
            text=replace(nano.text, **sizes, num_layers=num_layers),
        )
        step = Step(spec, adapter, precision, checkpointing, kernels, 128)
        kept.append(_bytes_behind_forward(step, allocations))
        load = Workload(
            model=spec,
            parameters=count_parameters(build_on_meta(spec, adapter)),
            hardware=replace(h800, precision=precision),
            strategy=StrategySpec(name="single"),
            checkpointing=checkpointing,
            kernels=kernels,
            is_packed=attention == "varlen",
            page_features=None,
            rank=8,
            longest_tokens=(128, 128),
            max_batch_tokens=None,
            max_image_tokens=0,
            max_supervised=0,
        )
        planned.append(kept_bytes(load) + _trained_cast_bytes(load))
    assert kept[1] - kept[0] == pytest.approx(planned[1] - planned[0], rel=0.06)
