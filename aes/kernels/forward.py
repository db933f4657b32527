"""One forward pass of Qwen3-VL up to the hidden states, and logits for chosen rows only.

Logits of every token against 151,936 words would be most of a step's memory; nobody here asks for
them. Used by training and inference alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from aes.kernels.parts import is_sharded, unwrap


def hidden_states(model: Any, batch: Mapping[str, Tensor], *, cache: Any = None) -> Tensor:
    """Last hidden states of a batch.

    Args:
        model: Transformers or PEFT model.
        batch: ``input_ids`` ``[B, T]``, ``position_ids`` ``[3, B, T]``, ``attention_mask`` over the
            cached tokens and these, and ``pixel_values`` with ``image_grid_thw`` for pages.
        cache: Keys and values of earlier tokens; extended in place.

    Returns:
        ``[B, T, hidden]``.
    """
    pixels = batch.get("pixel_values")
    has_pages = pixels is not None and len(pixels) > 0
    goes_on = cache is not None and cache.get_seq_length() > 0
    inner = unwrap(model).model
    touches = nullcontext() if has_pages or goes_on else _touching_vision(inner)
    with touches:
        output = inner(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            pixel_values=pixels if has_pages else None,
            image_grid_thw=batch["image_grid_thw"] if has_pages else None,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    states: Tensor = output.last_hidden_state
    return states


@contextmanager
def _touching_vision(inner: Any) -> Iterator[None]:
    """Within this context the tower runs where it does with pages: behind the embeddings.

    Ranks gather their parts in the order of their passes, which must be one order.
    """

    def touch(_: Any, __: Any, embedded: Tensor) -> Tensor:
        return embedded + _touch_vision(inner.visual).to(embedded.dtype)

    if not _needs_vision(inner.visual):
        yield
        return
    handle = inner.get_input_embeddings().register_forward_hook(touch)
    try:
        yield
    finally:
        handle.remove()


def _needs_vision(visual: Any) -> bool:
    """Whether the tower may not be left out of a pass.

    Ranks that hold parts of it gather them together, and one with pages would wait forever for one
    without. And what is trained in it must get a gradient, if only of 0, in every batch.
    """
    trains = torch.is_grad_enabled() and any(p.requires_grad for p in visual.parameters())
    return trains or is_sharded(next(visual.parameters()))


def _touch_vision(visual: Any) -> Tensor:
    """Nothing, from a pass of the vision tower over an empty page of one token."""
    first = next(visual.parameters())
    patches = torch.zeros(4, 1536, device=first.device)
    output = visual(patches, grid_thw=torch.tensor([[1, 2, 2]], device=first.device))
    found = torch.utils._pytree.tree_leaves(dict(output) if hasattr(output, "keys") else output)
    sums = [0.0 * t.float().sum() for t in found if isinstance(t, Tensor)]
    return torch.stack(sums).sum()


def logits(model: Any, states: Tensor) -> Tensor:
    """Float32 logits ``[N, vocabulary]`` of hidden states ``[N, hidden]``."""
    out: Tensor = unwrap(model).lm_head(states)
    return out.float()


def allowed_logits(model: Any, states: Tensor, allowed: Tensor) -> Tensor:
    """Float32 logits of a few words a row, without those of all others.

    Args:
        states: Hidden states ``[N, hidden]``.
        allowed: Token ids, int64 ``[N, most]``; negative ones stand for nothing and give the
            logit of some word, to be masked by the caller.

    Returns:
        ``[N, most]``.
    """
    head = unwrap(model).lm_head
    if is_sharded(next(head.parameters())):  # its rows are not here; all ranks gather them
        return logits(model, states).gather(1, allowed.clamp(min=0))
    if hasattr(head, "modules_to_save"):  # trained whole: PEFT keeps the copies by name
        is_off = head.disable_adapters
        head = head.original_module if is_off else head.modules_to_save[head.active_adapters[0]]
    words = head.weight[allowed.clamp(min=0)]
    return torch.einsum("nh,nkh->nk", states.to(words.dtype), words).float()


def autocast(
    precision: Literal["fp32", "bf16"], device: torch.device
) -> AbstractContextManager[Any]:
    """Under ``bf16`` float32 weights beside a bfloat16 base compute in bfloat16."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
