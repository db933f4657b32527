"""A pass behind cached keys and values: query heads that share a key head attend together.

transformers copies keys and values for each query head where a mask is given, in some versions at
every token: of 32 heads on 4 that is 16 times the traffic of the cache, more than the weights of a
mixture. Here the queries of a key head stand side by side as one longer query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from aes.kernels.forward import hidden_states
from aes.kernels.parts import language_model_of

_NAME = "aes_shared_heads"


def cached_states(model: Any, batch: Mapping[str, Any], cache: Any) -> Tensor:
    """Last hidden states of a few tokens behind a cache, which is extended in place.

    Args:
        model: Transformers or PEFT model.
        batch: ``input_ids`` ``[B, T]``, ``position_ids`` ``[3, B, T]``, and ``attention_mask``,
            bool ``[B, 1, T, cached + T]``; for eager attention what is added to its scores.

    Returns:
        ``[B, T, hidden]``.
    """
    with _sharing_heads(model):
        return hidden_states(model, batch, cache=cache)


@contextmanager
def _sharing_heads(model: Any) -> Iterator[None]:
    config = language_model_of(model).config
    name = config._attn_implementation
    if name == "eager":
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = name


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """A function for transformers: ``[B, heads, T, D]`` to ``[B, T, heads, D]``."""
    if attention_mask is None or attention_mask.dim() != 4 or query.shape[1] == key.shape[1]:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return found
    rows, heads, length, size = query.shape
    groups = heads // key.shape[1]
    queries = query.reshape(rows, -1, groups * length, size)
    mask = attention_mask.expand(rows, 1, length, -1).repeat(1, 1, groups, 1)
    out = scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, heads, length, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
