"""Experts of our own against transformers', and against numerical gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeTextConfig
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextExperts

from aes.kernels.experts import (
    FrozenExperts,
    frozen_experts_forward,
    grouped_product,
    trains_experts,
    use_experts,
)

_ROUTINGS = {
    "all of one": [[0, 0]] * 5,
    "one with none, one with a single token": [[0, 1], [1, 3], [3, 0], [0, 1], [1, 4]],
    "the same expert twice": [[2, 2], [1, 3], [4, 4], [0, 1], [3, 3]],
    "one token": [[4, 1]],
}


def _leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("routing", _ROUTINGS.values(), ids=_ROUTINGS)
def test_gradients_are_those_of_finite_differences(routing: list[list[int]]) -> None:
    torch.manual_seed(0)
    experts = torch.tensor(routing)
    gate_up, down = torch.randn(5, 8, 6).double(), torch.randn(5, 6, 4).double()

    def run(hidden: Tensor, weights: Tensor) -> Tensor:
        out: Tensor = FrozenExperts.apply(hidden, experts, weights, gate_up, down, False)  # type: ignore[no-untyped-call]
        return out

    inputs = (_leaf(len(routing), 6), _leaf(len(routing), 2))
    assert torch.autograd.gradcheck(run, inputs)
    alone = (inputs[0].detach(), inputs[1])  # a router that is trained below a frozen input
    assert torch.autograd.gradcheck(run, alone)


@pytest.fixture
def experts() -> Qwen3VLMoeTextExperts:
    config = Qwen3VLMoeTextConfig(
        hidden_size=64, moe_intermediate_size=48, num_experts=8, num_experts_per_tok=3
    )
    torch.manual_seed(1)
    module = Qwen3VLMoeTextExperts(config)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module.requires_grad_(False)


def _routed(num_tokens: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    weights, choices = torch.randn(num_tokens, 8).softmax(-1).topk(3)
    return _leaf(num_tokens, 64, dtype=torch.float32), choices, weights.clone().requires_grad_()


def _pass(
    module: Any, forward: Callable[..., Tensor] | None, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Output and both gradients."""
    hidden, choices, weights = _routed()
    if forward is None:
        module.config._experts_implementation = "grouped_mm"
        out = module(hidden.to(dtype), choices, weights.to(dtype))
    else:
        out = forward(module, hidden.to(dtype), choices, weights.to(dtype))
    assert out.dtype == dtype
    torch.manual_seed(3)
    out.backward(torch.randn_like(out))
    assert hidden.grad is not None
    assert weights.grad is not None
    return [out.float(), hidden.grad, weights.grad]


def test_frozen_experts_equal_grouped_mm(experts: Any) -> None:
    ours, theirs = _pass(experts, frozen_experts_forward), _pass(experts, None)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-6, rtol=1e-5)
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_in_bfloat16_they_are_as_near_to_the_truth(experts: Any) -> None:
    truth = _pass(experts, None)
    half = experts.bfloat16()
    ours = _pass(half, frozen_experts_forward, torch.bfloat16)
    theirs = _pass(half, None, torch.bfloat16)
    for one, other, true in zip(ours, theirs, truth, strict=True):
        assert (one - true).norm() <= 1.3 * (other - true).norm()


def test_checkpointing_and_autocast_change_nothing(experts: Any) -> None:
    plain = _pass(experts.bfloat16(), frozen_experts_forward, torch.bfloat16)

    def again(*inputs: Any) -> Any:
        return checkpoint(frozen_experts_forward, *inputs, use_reentrant=False)

    with torch.autocast("cpu", torch.bfloat16):
        for one, other in zip(_pass(experts, again, torch.bfloat16), plain, strict=True):
            assert torch.equal(one, other)


def test_a_second_pass_is_bit_for_bit_the_same(experts: Any) -> None:
    first, second = (_pass(experts, frozen_experts_forward) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def _kept_bytes(module: Any, forward: Callable[..., Tensor] | None) -> int:
    """What autograd keeps for the backward pass, weights and inputs of the pass aside."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hidden, choices, weights = _routed()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        module.config._experts_implementation = "grouped_mm"
        call = module if forward is None else lambda *inputs: forward(module, *inputs)
        out = call(hidden, choices, weights)
    for tensor in (*module.parameters(), hidden, choices, weights):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    assert out.grad_fn is not None
    return sum(kept.values())


def test_only_the_pre_activation_and_the_routing_are_kept(experts: Any) -> None:
    choices = 40 * 3
    before = choices * 2 * 48 * 4
    routing = choices * 8 + 8 * 4  # order of the choices, and where each expert's end
    assert _kept_bytes(experts, frozen_experts_forward) == before + routing
    assert _kept_bytes(experts, None) > 2 * before


def test_the_loop_is_the_same_product() -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(9, 8), torch.randn(4, 16, 8)
    ends = torch.tensor([2, 2, 8, 9], dtype=torch.int32)
    looped = grouped_product(rows.double(), weight.double().mT, ends)
    torch.testing.assert_close(grouped_product(rows, weight.mT, ends), looped.float())


@pytest.mark.parametrize("name", ["eager", "batched_mm", "grouped_mm", "frozen"])
def test_a_model_takes_any_of_them(
    name: Any, load_nano: Callable[..., Any], make_lora: Callable[..., Any]
) -> None:
    model = load_nano(make_lora())
    ids = torch.arange(20).view(2, 10)
    truth = model(input_ids=ids).logits
    use_experts(model, name)
    torch.testing.assert_close(model(input_ids=ids).logits, truth, atol=1e-5, rtol=1e-4)
    chosen = model.config.get_text_config()._experts_implementation
    assert chosen.removeprefix("aes_") == name
    assert chosen != "grouped_mm"  # `generate` would replace it on a card


def test_experts_that_are_trained_are_not_frozen(
    load_nano: Callable[..., Any], make_lora: Callable[..., Any]
) -> None:
    adapted, whole = load_nano(make_lora(targets=("attention", "experts"))), load_nano()
    assert not trains_experts(load_nano(make_lora()))
    for model in (adapted, whole):
        assert trains_experts(model)
        with pytest.raises(ValueError, match=r"use kernels\.experts=grouped_mm"):
            use_experts(model, "frozen")
        use_experts(model, "grouped_mm")
    ids = torch.arange(20).view(2, 10)
    adapted(input_ids=ids).logits.sum().backward()
    assert any("experts" in n and p.grad is not None for n, p in adapted.named_parameters())
