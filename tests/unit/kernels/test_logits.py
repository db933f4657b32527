"""Cross-entropy in chunks against the plain one: values, gradients, and what is there at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aes.kernels.logits import ATTENDED, _cross_entropy, _linear, choose_rows, summed_cross_entropy
from aes.kernels.parts import unwrap
from aes.model import LoraSpec
from aes.model.adapters import without_adapter

HIDDEN, VOCABULARY = 8, 50


class Model(nn.Module):
    """A head and nothing else."""

    def __init__(
        self, *, trained: bool, dtype: torch.dtype = torch.float32, vocabulary: int = VOCABULARY
    ) -> None:
        super().__init__()
        self.lm_head = nn.Linear(HIDDEN, vocabulary, bias=False, dtype=dtype)
        self.lm_head.weight.requires_grad_(trained)


def _rows(num: int) -> Any:
    return 3 * torch.randn(num, HIDDEN), torch.randint(VOCABULARY, (num,)), torch.rand(num)


def _both(model: Any, states: Tensor, rows: int | None, *args: Any, scale: float = 0.3) -> Any:
    """Loss, gradient of the states and gradients of the head."""
    targets, weights = args
    model.zero_grad()
    own = states.clone().requires_grad_()
    loss = summed_cross_entropy(model, own, targets, weights=weights, rows=rows)
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    assert own.grad is not None
    trained = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), own.grad, trained


def _assert_alike(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-4)
    assert found[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, atol=1e-6, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    num=st.integers(0, 9),
    rows=st.integers(ATTENDED, 12),
    trained=st.booleans(),
    weighted=st.booleans(),
    seed=st.integers(0, 100),
)
def test_chunks_equal_all_rows_at_once(
    num: int, rows: int, trained: bool, weighted: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    model = Model(trained=trained)
    states, targets, weights = _rows(num)
    args = (targets, weights if weighted else None)
    _assert_alike(_both(model, states, rows, *args), _both(model, states, None, *args))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("rows", [ATTENDED, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_the_function(weighted: bool, rows: int, trained: bool) -> None:
    torch.manual_seed(0)
    states = torch.randn(5, HIDDEN, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, dtype=torch.float64, requires_grad=trained)
    targets = torch.randint(VOCABULARY, (5,))
    weights = torch.rand(5, dtype=torch.float64) if weighted else None
    torch.autograd.gradcheck(
        lambda s, w: _cross_entropy(s, w, targets, weights, rows), (states, weight)
    )


@pytest.mark.parametrize("rows", [ATTENDED, 4])
def test_a_loss_that_would_underflow_is_finite(rows: int) -> None:
    """The gold token's probability is 0 in float32, its logarithm is not."""
    model = Model(trained=False)
    states = torch.zeros(1, HIDDEN)
    states[0, 0] = 1
    with torch.no_grad():
        model.lm_head.weight.zero_()[3, 0] = 500
    loss = summed_cross_entropy(model, states, torch.tensor([0]), rows=rows)
    assert loss.item() == pytest.approx(500)


@pytest.mark.parametrize("trained", [False, True])
def test_bfloat16_under_autocast_is_as_close_as_the_plain_way(trained: bool) -> None:
    torch.manual_seed(1)
    dtype = torch.float32 if trained else torch.bfloat16
    model = Model(trained=trained, dtype=dtype)
    states, targets, weights = _rows(40)
    exact = Model(trained=trained)
    exact.load_state_dict(model.state_dict())
    truth = _both(exact, states, None, targets, weights)
    with torch.autocast("cpu", torch.bfloat16):
        plain = _both(model, states, None, targets, weights)
        found = _both(model, states, 16, targets, weights)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == states.dtype
    for part in (0, 1):
        off = (found[part] - truth[part]).norm()
        assert off <= 1.2 * (plain[part] - truth[part]).norm() + 1e-4
    for name, gradient in truth[2].items():
        off = (found[2][name] - gradient).norm()
        assert off <= 1.2 * (plain[2][name] - gradient).norm()


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Most elements of any tensor that an operator returned."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [t.untyped_storage().nbytes() for t in tree_leaves(result) if torch.is_tensor(t)]
        self.most = max([self.most, *sizes])
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_is_larger_than_the_rows_asked_for(dtype: torch.dtype) -> None:
    model = Model(trained=False, dtype=dtype, vocabulary=3000)
    states, targets, weights = _rows(64)
    for rows, most in ((None, 64), (16, 16)):
        with Largest() as largest:  # type: ignore[no-untyped-call]
            _both(model, states.to(dtype), rows, targets, weights)
        assert largest.most == most * 3000 * 4


def test_as_attention_not_even_one_row_of_logits_is_there() -> None:
    model = Model(trained=False, vocabulary=3000)
    states, targets, weights = _rows(64)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        _both(model, states, ATTENDED, targets, weights)
    assert largest.most == 3000 * HIDDEN * 4  # the weights themselves, as keys


def test_a_card_has_no_attention_over_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="logit_rows=0"):
        choose_rows(ATTENDED, "cuda")
    assert choose_rows("auto", "cpu") == ATTENDED
    assert choose_rows("auto", "cuda") == 1024


@pytest.fixture
def adapted() -> Callable[..., Any]:
    """A head within PEFT, trained whole or by LoRA."""

    def make(**config: Any) -> Any:
        torch.manual_seed(2)
        model = Model(trained=False)
        model.other = nn.Linear(HIDDEN, HIDDEN)
        return get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, **config))

    return make


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["other"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["lm_head"]},
    ],
)
def test_heads_within_an_adapter(adapted: Callable[..., Any], config: Any) -> None:
    model = adapted(**config)
    for num in (0, 7):
        states, targets, weights = _rows(num)
        for args in ((targets, weights), (targets, None)):
            plain = _both(model, states, None, *args)
            assert any("lm_head" in name for name in plain[2])
            _assert_alike(_both(model, states, 3, *args), plain)


def test_without_its_adapter_the_original_head_counts(
    load_nano: Callable[..., Any], make_lora: Callable[..., LoraSpec]
) -> None:
    model = load_nano(make_lora(modules_to_save=("lm_head",)))
    head = unwrap(model).lm_head
    states = torch.randn(5, head.original_module.in_features)
    targets = torch.arange(5)
    with torch.no_grad():
        head.modules_to_save["default"].weight.mul_(5)
        losses = [summed_cross_entropy(model, states, targets, rows=rows) for rows in (2, None)]
        with without_adapter(model):
            losses += [
                summed_cross_entropy(model, states, targets, rows=rows) for rows in (2, None)
            ]
    assert losses[0] == pytest.approx(float(losses[1]), abs=1e-4)
    assert losses[2] == pytest.approx(float(losses[3]), abs=1e-4)
    assert abs(losses[0] - losses[2]) > 0.01


def test_hooks_of_the_head_run_once_whatever_the_chunks() -> None:
    """They gather a sharded head, which ranks must do equally often."""
    model, calls = Model(trained=False), []
    model.lm_head.register_forward_pre_hook(lambda *_: calls.append("before"))
    model.lm_head.register_forward_hook(lambda *_: calls.append("behind"))
    for num in (0, 1, 9):
        states, targets, _ = _rows(num)
        summed_cross_entropy(model, states.requires_grad_(), targets, rows=2).backward()  # type: ignore[no-untyped-call]
    assert calls == 3 * ["before", "behind"]
    assert _linear(model.lm_head) is model.lm_head  # its own forward is back
    assert "forward" not in vars(model.lm_head)


def test_only_what_is_nothing_but_a_product_takes_the_short_way() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = Model(trained=True)
    for head in (Scaled(HIDDEN, VOCABULARY, bias=False), nn.Linear(HIDDEN, VOCABULARY)):
        assert _linear(head) is None
        model.lm_head = head
        states, targets, weights = _rows(5)
        plain = _both(model, states, None, targets, weights)
        _assert_alike(_both(model, states, 2, targets, weights), plain)
