"""Fused operations against transformers' own, and against numerical gradients."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel, Qwen3VLTextRMSNorm

from aes.kernels import fused
from aes.kernels.fused import (
    RMSNorm,
    Rotary,
    SwiGLU,
    expert_swiglu,
    expert_swiglu_backward,
    fuse_ops,
)
from aes.kernels.parts import unwrap


def _leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def _check(function: Any, *inputs: Any) -> bool:
    torch.manual_seed(0)
    return torch.autograd.gradcheck(function.apply, inputs)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    assert _check(RMSNorm, _leaf(2, 3, 8), _leaf(8), 1e-6)
    assert _check(Rotary, _leaf(2, 3, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8))
    assert _check(SwiGLU, _leaf(2, 3, 8), _leaf(2, 3, 8))


def test_the_experts_backward_is_that_of_their_forward() -> None:
    torch.manual_seed(0)
    before, shares = _leaf(6, 8), _leaf(6, 1)
    grad = torch.randn(6, 4).double()
    truth = torch.autograd.grad(expert_swiglu(before) * shares, (before, shares), grad)
    found = expert_swiglu_backward(before.detach(), grad, shares.detach())
    torch.testing.assert_close(found, (truth[0], truth[1][:, 0]))


def test_in_bfloat16_a_norms_gradient_is_as_exact_as_transformers() -> None:
    """A gradient along the rows all but vanishes behind a norm: sums must not be rounded."""
    torch.manual_seed(0)
    rows, weight = torch.randn(64, 512).bfloat16(), torch.ones(512).bfloat16()
    grad = (rows + 0.1 * torch.randn(64, 512)).bfloat16()
    theirs = Qwen3VLTextRMSNorm(512, eps=1e-6).bfloat16()

    def of_states(function: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
        states = rows.to(dtype).requires_grad_()
        return torch.autograd.grad(function(states), states, grad.to(dtype))[0].double()

    truth = of_states(
        lambda x: RMSNorm.apply(x, weight.double(), 1e-6),  # type: ignore[no-untyped-call]
        torch.float64,
    )
    ours = of_states(
        lambda x: RMSNorm.apply(x, weight, 1e-6),  # type: ignore[no-untyped-call]
        torch.bfloat16,
    )
    usual = (of_states(theirs, torch.bfloat16) - truth).norm()
    assert (ours - truth).norm() <= 1.05 * usual


def test_for_a_card_each_is_compiled_once_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried on a CPU with a backend that generates no code."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    fused._on_card.cache_clear()
    for samples, length in ((2, 5), (3, 7), (4, 6), (2, 9)):
        rows, n = torch.randn(samples * length, 8, requires_grad=length > 6), samples * length
        states = torch.randn(samples, length, 3, 4).transpose(1, 2)
        angles = torch.randn(samples, length, 4)
        for function, inputs in (
            (fused.norm, (rows, torch.rand(8), 1e-6)),
            (fused.rotate, (states, angles, angles)),
            (expert_swiglu_backward, (rows, torch.randn(n, 4), torch.rand(n, 1))),
        ):
            found = fused._on_card(function)(*inputs)
            torch.testing.assert_close(found, function(*(_detached(t) for t in inputs)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    fused._on_card.cache_clear()
    torch._dynamo.reset()


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _kept_bytes(run: Callable[[], Tensor], weights: Sequence[Tensor]) -> int:
    """What autograd keeps of a pass, weights aside."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = run()
    assert out.grad_fn is not None
    for weight in weights:
        kept.pop(weight.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@pytest.fixture
def dense() -> Any:
    config = Qwen3VLTextConfig(
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=64,
        rope_parameters={"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e4},
        attn_implementation="sdpa",
    )
    torch.manual_seed(1)
    return Qwen3VLTextModel(config)


def _fuse(text: Any) -> Any:
    """A fused copy of a language model."""
    own = copy.deepcopy(text)
    holder = torch.nn.Module()
    holder.model = torch.nn.Module()
    holder.model.language_model = own
    fuse_ops(holder)
    return own


def _pass(text: Any) -> dict[str, Tensor]:
    """Output and gradients of all weights."""
    torch.manual_seed(2)
    embedded = torch.randn(2, 11, 32)
    out = text(inputs_embeds=embedded).last_hidden_state
    out.backward(torch.randn_like(out))
    return {"out": out} | {
        name: p.grad for name, p in text.named_parameters() if p.grad is not None
    }


def test_a_dense_model_computes_the_same(dense: Any) -> None:
    own = _fuse(dense)
    theirs, ours = _pass(dense), _pass(own)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 20
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_less_is_kept_for_the_backward_pass(dense: Any, dtype: torch.dtype) -> None:
    dense = dense.to(dtype)
    own, embedded = _fuse(dense), torch.randn(2, 64, 32, dtype=dtype, requires_grad=True)
    kept = {}
    for name, text in (("theirs", dense), ("ours", own)):
        text.requires_grad_(False)
        kept[name] = _kept_bytes(
            lambda text=text: text(inputs_embeds=embedded).last_hidden_state,  # type: ignore[misc]
            list(text.parameters()),
        )
    # Of each token and layer silu(gate); in bfloat16 the norms' float32 copies of their inputs too.
    spared = 2 * 128 * dtype.itemsize * 96
    if dtype == torch.bfloat16:
        spared += 2 * 128 * 2 * (32 + 32 + 64 + 32)
    assert kept["theirs"] - kept["ours"] >= spared


def test_another_model_stays_as_it_was(dense: Any) -> None:
    other = copy.deepcopy(dense)
    before = dict(type(dense.layers[0].self_attn).forward.__globals__)
    own = _fuse(dense)
    assert type(dense.layers[0].self_attn).forward.__globals__ == before
    assert "forward" not in vars(other.layers[0].self_attn)
    assert "forward" in vars(own.layers[0].self_attn)


def test_autocast_changes_no_dtype(dense: Any) -> None:
    own = _fuse(dense)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = _pass(dense), _pass(own)
    assert ours["out"].dtype == theirs["out"].dtype
    torch.testing.assert_close(ours["out"], theirs["out"], atol=0.1, rtol=0.1)


def test_adapters_stay_in_their_places(
    load_nano: Callable[..., Any], make_lora: Callable[..., Any]
) -> None:
    model = load_nano(make_lora())
    names = [name for name, _ in model.named_modules()]
    weights = list(model.state_dict())
    truth = model(input_ids=torch.arange(20).view(2, 10)).logits
    fuse_ops(model)
    assert [name for name, _ in model.named_modules()] == names
    assert list(model.state_dict()) == weights
    found = model(input_ids=torch.arange(20).view(2, 10)).logits
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)
    layer = unwrap(model).model.language_model.layers[0]
    found.sum().backward()
    assert layer.self_attn.q_proj.lora_B["default"].weight.grad.any()
