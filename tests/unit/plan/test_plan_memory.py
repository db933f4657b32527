from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from aes.hardware import HardwareSpec, StrategySpec
from aes.model import LoraSpec, ModelSpec
from aes.model.adapters import add_adapter
from aes.model.config import build_config
from aes.model.loading import build_on_meta
from aes.plan import Plan, count_parameters
from aes.plan.memory import _merged_expert_bytes, layer_bytes_per_token
from aes.plan.workload import Workload

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
    plan = reference(checkpointing=False)
    assert plan.memory.fits is False
    (blocker,) = plan.blockers
    assert "would fit: gradient checkpointing (" in blocker


def test_checkpointing_keeps_the_input_of_each_layer_and_one_layer(reference: Reference) -> None:
    with_it, without = reference().memory, reference(checkpointing=False).memory
    inputs = 48 * 2048 * 2 * (2 * 2048) / 2**30
    assert inputs < with_it.activations < without.activations / 10


def test_logits_are_of_supervised_rows(reference: Reference) -> None:
    # bf16, float32, log-probabilities, gradient: 14 bytes for each of 2 x 450 x 151,936.
    assert reference().memory.logits == pytest.approx(2 * 450 * 151_936 * 14 / 2**30)


def test_a_card_of_24_gib_needs_shards_or_a_smaller_model(reference: Reference) -> None:
    plan = reference(hardware={"memory_gib": 24.0})
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


def _saved_bytes(spec: ModelSpec, adapter: LoraSpec, precision: str, num_tokens: int) -> int:
    """Bytes that autograd keeps of the language model's forward pass, weights not counted."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model: Any = AutoModelForImageTextToText.from_config(build_config(spec), dtype=dtype)
    model = add_adapter(model, adapter)
    for weight in model.parameters():
        weight.data = weight.data.float() if weight.requires_grad else weight.data
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(0, 499, (2, num_tokens))
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    casts = (
        torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    )
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), casts:
        language_model = model.base_model.model.model.language_model
        language_model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", ["dense", "experts", "experts trained"])
def test_a_layer_keeps_what_autograd_really_saves(
    model_spec: Callable[[str], ModelSpec], h800: HardwareSpec, kind: str, precision: Any
) -> None:
    """Counts what a real layer saves (2 x 128 tokens, hidden 320) against the arithmetic."""
    sizes: dict[str, Any] = {
        "hidden_size": 320,
        "intermediate_size": 704,
        "num_heads": 8,
        "expert_intermediate_size": 112,
        "vocab_size": 500,
    }
    if kind == "dense":
        sizes |= {"num_experts": 0, "experts_per_token": 0, "expert_intermediate_size": 0}
    nano = model_spec("nano")
    spec = replace(
        nano,
        architecture="qwen3_vl" if kind == "dense" else "qwen3_vl_moe",
        text=replace(nano.text, **sizes),
    )
    targets: Any = ("attention", "experts") if kind == "experts trained" else ("attention",)
    adapter = LoraSpec(rank=8, alpha=16, dropout=0.0, targets=targets, modules_to_save=())
    one, three = (replace(spec, text=replace(spec.text, num_layers=n)) for n in (1, 3))
    saved = [_saved_bytes(s, adapter, precision, 128) for s in (one, three)]
    load = Workload(
        model=three,
        parameters=count_parameters(build_on_meta(three, adapter)),
        hardware=replace(h800, precision=precision),
        strategy=StrategySpec(name="single"),
        checkpointing=False,
        rank=8,
        max_tokens=128,
        max_image_tokens=0,
        max_supervised=0,
    )
    expected = 2 * 128 * layer_bytes_per_token(load) + _merged_expert_bytes(load)
    assert (saved[1] - saved[0]) / 2 == pytest.approx(expected, rel=0.06)
