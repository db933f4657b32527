"""Compiled layers compute the same, and are compiled a bounded number of times.

By backends that generate no code, which takes most of the time: ``eager`` traces the forward alone.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from aes.kernels.checkpointing import checkpoint_layers
from aes.kernels.compiling import compile_layers, missing_compiler
from aes.kernels.experts import use_experts
from aes.kernels.forward import hidden_states
from aes.kernels.fused import fuse_ops

_SHAPES = ((2, 12), (2, 17), (3, 9), (4, 25), (2, 31))


@pytest.fixture(autouse=True)
def _traced_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Else pytest keeps thousands of its lines for each graph.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def _batch(num_samples: int, length: int) -> dict[str, Tensor]:
    torch.manual_seed(length)
    return {
        "input_ids": torch.randint(0, 1000, (num_samples, length)),
        "position_ids": torch.arange(length).expand(3, num_samples, length),
        "attention_mask": torch.ones(num_samples, length, dtype=torch.long),
    }


def _pass(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    states = hidden_states(model, batch)
    torch.manual_seed(0)
    model.zero_grad()
    torch.autograd.backward(states, torch.randn_like(states))
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"states": states.detach()} | grads


def test_one_code_serves_all_layers_and_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick essence, of a model without experts."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    config = Qwen3VLTextConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=64,
        rope_parameters={"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e4},
        attn_implementation="sdpa",
    )
    holder = torch.nn.Module()
    holder.model = torch.nn.Module()
    holder.model.language_model = text = Qwen3VLTextModel(config).train()
    batches = [torch.randn(*shape, 32, requires_grad=True) for shape in ((2, 9), (3, 14))]
    truths = [text(inputs_embeds=batch, use_cache=False).last_hidden_state for batch in batches]
    compile_layers(holder)
    counts = []
    for batch, truth in zip(batches, truths, strict=True):
        found = text(inputs_embeds=batch, use_cache=False).last_hidden_state
        torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    # Fewer than layers, since only the first ones differ.
    assert counts[0] == counts[1] < 4, counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "backend"), [("none", "eager"), ("attention", "aot_eager"), ("all", "aot_eager")]
)
def test_lengths_may_change_without_compiling_anew(
    policy: Any,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    load_nano: Callable[..., Any],
    make_lora: Callable[..., Any],
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain, compiled = load_nano(make_lora()).train(), load_nano(make_lora()).train()
    for model in (plain, compiled):
        use_experts(model, "frozen")
    fuse_ops(compiled)
    checkpoint_layers(compiled, policy, 2)
    compile_layers(compiled)
    counts = []
    for shape in _SHAPES:
        truth, found = _pass(plain, _batch(*shape)), _pass(compiled, _batch(*shape))
        assert found.keys() == truth.keys()
        for name, value in truth.items():
            assert (found[name] - value).norm() <= 1e-4 * value.norm() + 1e-6, name
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    # Once for a first layer, whose input needs no gradient, and once for all others.
    assert counts == [2] * len(_SHAPES)
    assert not torch._dynamo.utils.counters["graph_break"]


def test_what_is_answered_is_not_compiled(load_nano: Callable[..., Any]) -> None:
    model = load_nano()
    compile_layers(model)
    with torch.no_grad():
        hidden_states(model.train(), _batch(2, 5))
    hidden_states(model.eval(), _batch(2, 5))
    assert not torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_beyond_the_limit_layers_run_as_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
    load_nano: Callable[..., Any],
    make_lora: Callable[..., Any],
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr("aes.kernels.compiling.RECOMPILE_LIMIT", 1)
    plain, compiled = load_nano(make_lora()).train(), load_nano(make_lora()).train()
    compile_layers(compiled)
    truth, found = _pass(plain, _batch(2, 9)), _pass(compiled, _batch(2, 9))
    for name, value in truth.items():
        assert (found[name] - value).norm() <= 1e-4 * value.norm() + 1e-6, name
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/gcc" if name == "gcc" else None)
    assert missing_compiler("cpu") == "the C++ compiler g++"
    assert missing_compiler("cuda") is None
