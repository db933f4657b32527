"""Our own attention against torch's with a dense mask, and how transformers is told of it."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from aes.kernels import attention
from aes.kernels.attention import VARLEN, packing_of, use_attention, varlen_attention
from aes.kernels.forward import hidden_states
from aes.kernels.parts import unwrap
from aes.records import Essay

LENGTHS = (5, 1, 9, 3)
HEADS, KEY_HEADS, SIZE = 4, 2, 8


class Module:
    """What transformers' function looks at."""

    num_key_value_groups = HEADS // KEY_HEADS
    is_causal = True


def _inputs() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(1, heads, sum(LENGTHS), SIZE, generator=generator).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )


def _dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every token sees those before it in its own sample; all heads have keys of their own."""
    sample = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    mask = (sample[:, None] == sample[None]).tril()
    groups = HEADS // KEY_HEADS
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)


def _gradients(out: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return torch.autograd.grad((out * weights).sum(), inputs)


def _compare(out: Tensor, inputs: tuple[Tensor, ...]) -> None:
    expected = _dense(*inputs).transpose(1, 2)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(_gradients(out, inputs), _gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_each_sample_attends_within_itself() -> None:
    inputs = _inputs()
    packing = packing_of(torch.tensor(LENGTHS), inputs[0].device)
    out, weights = varlen_attention(Module(), *inputs, None, packing=packing, scaling=0.3)
    assert weights is None
    _compare(out, inputs)


@pytest.mark.parametrize("asks_for_gqa", [True, False])
def test_the_kernel_for_cards_is_given_what_it_takes(
    asks_for_gqa: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the kernel's signature, later and in torch 2.11, computes by the ends."""
    seen: dict[str, Any] = {}

    def kernel(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        **options: bool,
    ) -> Tensor:
        assert query.shape == (sum(LENGTHS), HEADS, SIZE)
        assert key.shape == value.shape == (sum(LENGTHS), KEY_HEADS, SIZE)
        assert cu_seq_q.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k)
        assert cu_seq_q.tolist() == [0, 5, 6, 15, 18]
        assert max_q == max_k == 9
        assert window_size == (-1, 0)
        seen.update(options)
        ends = cu_seq_q.tolist()
        parts = [
            scaled_dot_product_attention(
                *(part[a:b].transpose(0, 1) for part in (query, key, value)),
                is_causal=True,
                scale=scale,
                enable_gqa=True,
            ).transpose(0, 1)
            for a, b in pairwise(ends)
        ]
        return torch.cat(parts)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(attention, "_has_flash", lambda *_: True)
    monkeypatch.setattr(attention, "_is_taken", lambda _: asks_for_gqa)
    inputs = _inputs()
    packing = packing_of(torch.tensor(LENGTHS), inputs[0].device)
    out, _ = varlen_attention(Module(), *inputs, None, packing=packing, scaling=0.3)
    _compare(out, inputs)
    assert seen == ({"enable_gqa": True} if asks_for_gqa else {})


def test_the_installed_kernel_takes_a_window() -> None:
    from inspect import signature

    from torch.nn.attention.varlen import varlen_attn

    assert {"scale", "window_size"} <= signature(varlen_attn).parameters.keys()


def test_a_cpu_has_no_such_kernel() -> None:
    assert not attention._has_flash(torch.device("cpu"), torch.bfloat16)


def test_the_tower_keeps_its_own(load_nano: Callable[..., Any]) -> None:
    model = load_nano()
    use_attention(model, "varlen")
    inner = unwrap(model).model
    assert inner.language_model.config._attn_implementation == VARLEN
    assert inner.visual.config._attn_implementation == "sdpa"


def test_with_a_cache_it_is_sdpa_to_the_bit(
    load_nano: Callable[..., Any], make_batch: Callable[..., Any], essays: tuple[Essay, ...]
) -> None:
    """What grades in validation is the model that trains."""
    model, batch = load_nano(), make_batch(essays[:3])
    found = []
    for name in ("sdpa", "varlen"):
        use_attention(model, name)  # type: ignore[arg-type]
        cache = DynamicCache()
        with torch.no_grad():
            first = hidden_states(model, batch, cache=cache)
            one = {
                "input_ids": batch["input_ids"][:, :2],
                "attention_mask": torch.cat([batch["attention_mask"], torch.ones(3, 2)], 1).long(),
                "position_ids": batch["position_ids"].max(dim=2, keepdim=True)[0] + torch.arange(2),
            }
            found.append((first, hidden_states(model, one, cache=cache)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("is_packed", [False, True])
def test_no_mask_is_built_in_training(
    is_packed: bool,
    load_nano: Callable[..., Any],
    make_batch: Callable[..., Any],
    essays: tuple[Essay, ...],
) -> None:
    model, batch = load_nano(), make_batch(essays[:3], is_packed=is_packed)
    sizes: list[int] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        mask = sdpa_mask(*args, **kwargs)
        sizes.append(0 if mask is None else mask.numel())
        return mask

    AttentionMaskInterface.register(VARLEN, watched)
    try:
        for name, is_built in (("varlen", False), ("sdpa", True)):
            use_attention(model, name)  # type: ignore[arg-type]
            AttentionMaskInterface.register("sdpa", watched)
            sizes.clear()
            hidden_states(model, batch)
            assert any(sizes) == is_built
    finally:
        AttentionMaskInterface.register(VARLEN, sdpa_mask)
        AttentionMaskInterface.register("sdpa", sdpa_mask)


def test_padding_on_the_left_is_not_passed_over(
    load_nano: Callable[..., Any], make_batch: Callable[..., Any], essays: tuple[Essay, ...]
) -> None:
    model, batch = load_nano(), make_batch(essays[:3])
    use_attention(model, "varlen")
    with pytest.raises(AssertionError, match="on the right"):
        hidden_states(model, batch | {"attention_mask": batch["attention_mask"].flip(1)})
