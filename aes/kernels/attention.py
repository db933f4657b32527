"""Which function computes attention, and the one of our own for samples that stand end to end.

A packed row is ``[1, N]``: the samples of a micro-batch one behind the other, without padding. Here
each attends within itself, so that no mask of N x N is ever built and nothing is computed that a
mask would throw away. Knows lengths; knows neither batches nor pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from aes.kernels.parts import language_model_of

AttentionName = Literal["eager", "sdpa", "varlen"]
VARLEN = "varlen"
"""Our own function's name among those of transformers."""

_CAUSAL = (-1, 0)
"""As a window: everything before, nothing behind."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the samples of a packed row stand.

    Attributes:
        lengths: Tokens of each sample, in order.
        ends: Where each ends and the next begins, with a 0 in front; int32 ``[samples + 1]``, on
            the device of the row.
    """

    lengths: tuple[int, ...]
    ends: Tensor

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(self.lengths)


def packing_of(sequence_lengths: Tensor, device: torch.device) -> Packing:
    """The packing of one row, made once for all layers.

    Args:
        sequence_lengths: int64 ``[samples]``. On the host it costs no wait for the device.
    """
    ends = pad(sequence_lengths.cumsum(0), (1, 0)).to(torch.int32)
    lengths = tuple(int(length) for length in sequence_lengths.tolist())
    return Packing(lengths=lengths, ends=ends.to(device, non_blocking=True))


def use_attention(model: Any, name: AttentionName) -> None:
    """Make the language model compute attention by the function of this name.

    ``varlen`` differs from ``sdpa`` only where a pass is given a ``Packing`` or needs no mask;
    decoding with caches and masks is computed as under ``sdpa``. The vision tower keeps its own.
    """
    language_model_of(model).set_attn_implementation(name)


def uses_varlen(model: Any) -> bool:
    """Whether the language model attends by our own function."""
    config = language_model_of(model).config
    return bool(config._attn_implementation == VARLEN)


def no_mask(device: torch.device) -> Tensor:
    """What stands for a mask where a ``Packing`` says everything.

    It has the four dimensions of a finished mask, else transformers would build a dense one, and no
    content, so that whoever used it by mistake would fail.
    """
    return torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device)


def varlen_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention, within each sample where the row is packed; a function for transformers.

    Args:
        query: ``[B, heads, T, D]``.
        key: ``[B, heads of keys, T, D]``; ``value`` alike.
        attention_mask: Of no meaning with a ``packing``.

    Returns:
        ``[B, T, heads, D]``, and no weights.
    """
    if packing is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    dtype = _compute_dtype(query)
    if dropout == 0 and _has_flash(query.device, dtype):
        out = _attend_flash(query.to(dtype), key.to(dtype), value.to(dtype), packing, scaling)
    else:
        out = _attend_each(query, key, value, packing, scaling, dropout)
    return out, None


def _attend_flash(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None
) -> Tensor:
    """All samples in one kernel; heads that share a key are not repeated."""
    from torch.nn.attention import varlen

    attend: Any = varlen.varlen_attn
    rows = [part[0].transpose(0, 1) for part in (query, key, value)]
    # Torch 2.11 shares keys unasked; later ones want to be told.
    shares = {"enable_gqa": True} if _is_taken("enable_gqa") else {}
    longest = packing.longest
    options = {"scale": scaling, "window_size": _CAUSAL, **shares}
    out: Tensor = attend(*rows, packing.ends, packing.ends, longest, longest, **options)
    return out[None]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_each(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """Sample by sample; compiling it would begin anew for every number of samples."""
    parts = (torch.split(part, list(packing.lengths), dim=2) for part in (query, key, value))
    shares = query.shape[1] != key.shape[1]
    outs = [
        scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shares
        )
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat([out.transpose(1, 2) for out in outs], dim=1)


def _compute_dtype(query: Tensor) -> torch.dtype:
    """Under autocast what torch's own attention would compute in."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def _has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's kernel for samples of unlike length runs there: Ampere or later."""
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type != "cuda" or not half or not _is_taken("window_size"):
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _is_taken(option: str) -> bool:
    """Whether the kernel of the torch at hand takes it."""
    from torch.nn.attention.varlen import varlen_attn

    return option in signature(varlen_attn).parameters


AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(VARLEN, sdpa_mask)
