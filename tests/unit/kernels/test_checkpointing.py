"""What is computed again is what was computed: losses, gradients, dropout; and less is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from aes.kernels.checkpointing import checkpoint_layers, is_recomputed
from aes.kernels.experts import use_experts
from aes.kernels.parts import unwrap
from aes.model import LoraSpec
from aes.model.spec import NoAdapterSpec
from aes.records import Essay
from aes.training import LossSpec
from aes.training.loss import summed_loss

POLICIES = ("none", "attention", "every_nth", "all")


def test_every_nth_begins_with_the_first() -> None:
    assert [is_recomputed(i, "every_nth", 3) for i in range(7)] == [
        i in (0, 3, 6) for i in range(7)
    ]
    assert all(is_recomputed(i, "all", 3) for i in range(7))
    assert not any(is_recomputed(i, "attention", 1) for i in range(7))


def _step(model: Any, batch: Any, table: Any) -> tuple[float, dict[str, Any], int]:
    """Loss, gradients, and the bytes that autograd kept between the passes."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = summed_loss(
            model, batch, spec=LossSpec(name="ce", feedback_weight=1.0), score_steps=table
        )
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients, sum(kept.values())


@pytest.mark.parametrize("experts", ["grouped_mm", "frozen"])
def test_policies_change_memory_alone(
    load_nano: Callable[..., Any],
    make_lora: Callable[..., LoraSpec],
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
    processor: Any,
    experts: Any,
) -> None:
    batch, found = make_batch(essays[:2]), {}
    for policy in POLICIES:
        model = load_nano(make_lora(dropout=0.3, modules_to_save=("visual.merger",)))
        use_experts(model, experts)
        checkpoint_layers(model, policy, 2)  # type: ignore[arg-type]
        found[policy] = _step(model, batch, processor.guide.table)
    loss, gradients, _ = found["none"]
    for policy in POLICIES[1:]:
        assert found[policy][0] == pytest.approx(loss, abs=1e-5)
        assert found[policy][1].keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[policy][1][name], gradient, atol=1e-6, rtol=1e-4)
    kept = {policy: found[policy][2] for policy in POLICIES}
    assert kept["all"] < kept["every_nth"] < kept["none"]
    assert kept["all"] < kept["attention"] < kept["none"]


def test_a_trained_tower_is_recomputed_with_all(
    load_nano: Callable[..., Any],
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
    processor: Any,
) -> None:
    found = []
    for policy in ("none", "all"):
        model = load_nano(NoAdapterSpec())
        checkpoint_layers(model, policy, 2)
        found.append(_step(model, make_batch(essays[:1]), processor.guide.table))
        blocks = unwrap(model).model.visual.blocks
        assert ["forward" in vars(block) for block in blocks] == [policy == "all"] * len(blocks)
    (loss, gradients, _), (again, others, _) = found
    assert again == pytest.approx(loss, abs=1e-5)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-5, rtol=1e-4)


def test_a_frozen_tower_keeps_nothing_to_recompute(
    load_nano: Callable[..., Any], make_lora: Callable[..., LoraSpec]
) -> None:
    model = load_nano(make_lora(modules_to_save=("visual.merger",)))
    checkpoint_layers(model, "all", 2)
    assert not any("forward" in vars(block) for block in unwrap(model).model.visual.blocks)


def test_nothing_is_done_twice_where_no_gradient_is_wanted(
    load_nano: Callable[..., Any], make_lora: Callable[..., LoraSpec]
) -> None:
    """Decoding fills a cache, in training mode too."""
    model = unwrap(load_nano(make_lora())).model.language_model
    ids = torch.arange(6)[None]
    expected = model(input_ids=ids, use_cache=True)
    checkpoint_layers_of = unwrap(load_nano(make_lora()))
    checkpoint_layers(checkpoint_layers_of, "all", 1)
    again = checkpoint_layers_of.model.language_model.train()
    found = again(input_ids=ids, use_cache=True)
    assert found.past_key_values.get_seq_length() == 6
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
