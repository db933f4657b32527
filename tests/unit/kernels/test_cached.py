"""Heads that share keys attend together: the states that transformers' own attention gives."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from aes.kernels.cached import cached_states
from aes.kernels.forward import hidden_states


@torch.no_grad()
def test_states_behind_a_cache_are_those_of_a_whole_pass(load_nano: Callable[..., Any]) -> None:
    model = load_nano().eval()
    config = model.model.language_model.config
    assert config.num_attention_heads > config.num_key_value_heads
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 1000, (2, 9), generator=generator)
    positions = torch.arange(9).expand(3, 2, -1)
    whole = {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(ids)}
    expected = hidden_states(model, whole)
    cache, name = DynamicCache(), config._attn_implementation
    first = {"input_ids": ids[:, :5], "position_ids": positions[..., :5], "attention_mask": None}
    hidden_states(model, first, cache=cache)
    found = []
    for begin, end in ((5, 8), (8, 9)):
        sight = torch.ones(end - begin, end, dtype=torch.bool).tril(begin)
        rest = {
            "input_ids": ids[:, begin:end],
            "position_ids": positions[..., begin:end],
            "attention_mask": sight.expand(2, 1, -1, -1),
        }
        found.append(cached_states(model, rest, cache))
    torch.testing.assert_close(torch.cat(found, dim=1), expected[:, 5:], atol=1e-5, rtol=1e-5)
    assert config._attn_implementation == name
