"""One forward pass of Qwen3-VL or Qwen3 up to the hidden states, and logits for chosen rows only.

Logits of every token against 151,936 words would be most of a step's memory; nobody here asks for
them. Used by training and inference alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from aes.kernels.attention import no_mask, packing_of, uses_varlen
from aes.kernels.parts import is_sharded, tower_of, unwrap
from aes.kernels.vision import embed_pages


def hidden_states(model: Any, batch: Mapping[str, Any], *, cache: Any = None) -> Tensor:
    """Last hidden states of a batch.

    Args:
        model: Transformers or PEFT model.
        batch: ``input_ids`` ``[B, T]``, ``position_ids`` ``[3, B, T]``, ``attention_mask`` over the
            cached tokens and these, and for pages ``pixel_values`` with ``image_grid_thw`` or, in
            their place, ``page_features``: what ``aes.kernels.vision`` made of them.
            Without a cache sequences are padded on the right. Of samples packed into one row:
            ``[1, N]``, ``[4, 1, N]``, no mask, and ``sequence_lengths``, int64 ``[samples]``.
            A model that reads text alone takes the first row of positions, which are all alike.
        cache: Keys and values of earlier tokens; extended in place.

    Returns:
        ``[B, T, hidden]``.
    """
    inner = unwrap(model).model
    places = {
        "position_ids": batch["position_ids"],
        "past_key_values": cache,
        "use_cache": cache is not None,
        **_sight(model, batch, has_cache=cache is not None),
    }
    if tower_of(model) is None:
        return _hidden_states_of_text(inner, batch, places)
    features = batch.get("page_features")
    if features is not None:
        embedded = embed_pages(inner, batch["input_ids"], features)
        states: Tensor = inner.language_model(**embedded, **places).last_hidden_state
        return states
    return _hidden_states_with_tower(inner, batch, places)


def _hidden_states_of_text(inner: Any, batch: Mapping[str, Any], places: dict[str, Any]) -> Tensor:
    """As ``hidden_states``, of a model that has no tower and one row of positions."""
    assert not len(batch.get("pixel_values", ())), "pages for a model that reads text alone"
    positions = places["position_ids"][0]
    if places["attention_mask"] is None and "sequence_lengths" not in batch:
        # Padding on the right, which nobody sees: counted on, it does not read as more samples.
        first = positions[:, :1]
        positions = first + torch.arange(positions.shape[1], device=first.device)
    output = inner(input_ids=batch["input_ids"], **places | {"position_ids": positions})
    states: Tensor = output.last_hidden_state
    return states


def _hidden_states_with_tower(
    inner: Any, batch: Mapping[str, Any], places: Mapping[str, Any]
) -> Tensor:
    """As ``hidden_states``, the pages as pixels."""
    cache = places["past_key_values"]
    pixels = batch.get("pixel_values")
    has_pages = pixels is not None and len(pixels) > 0
    goes_on = cache is not None and cache.get_seq_length() > 0
    touches = nullcontext() if has_pages or goes_on else _touching_vision(inner)
    with touches:
        output = inner(
            input_ids=batch["input_ids"],
            pixel_values=pixels if has_pages else None,
            image_grid_thw=batch["image_grid_thw"] if has_pages else None,
            **places,
        )
    states: Tensor = output.last_hidden_state
    return states


def _sight(model: Any, batch: Mapping[str, Any], *, has_cache: bool) -> dict[str, Any]:
    """Who sees whom, as the model's attention wants to be told."""
    device = batch["input_ids"].device
    if "sequence_lengths" in batch:
        if not uses_varlen(model):  # transformers reads the samples off the position ids
            return {"attention_mask": None}
        packing = packing_of(batch["sequence_lengths"], device)
        return {"attention_mask": no_mask(device), "packing": packing}
    mask = batch["attention_mask"]
    if has_cache or mask.dim() > 2 or not uses_varlen(model):
        return {"attention_mask": mask}
    # What is padded on the right is seen by nobody who counts, since none looks ahead. A card is
    # not asked, since it would be waited for.
    is_right = mask.is_cuda or bool((mask[:, 1:] <= mask[:, :-1]).all())
    assert is_right, "without a cache padding stands on the right"
    return {"attention_mask": None}


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
