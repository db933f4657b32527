"""What a frozen vision tower makes of pages, computed once and given to the language model again.

The tower's blocks must be frozen; its mergers need not be. Of a merger that is trained the input is
kept, which never changes, and the merger runs anew in every pass. Stores nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aes.kernels.parts import tower_of

PATCHES_PER_TOKEN = 4


class PageFeatures(NamedTuple):
    """What a tower made of pages, in their order.

    Each tensor is a merger's output, ``[tokens, hidden]``, or, of one that is trained, its input,
    ``[4 * tokens, vision hidden]``; without gradient.

    Attributes:
        pooled: Of the merger behind the last block.
        deepstack: Of the mergers behind blocks in between, for the first decoder layers.
    """

    pooled: Tensor
    deepstack: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (self.pooled, *self.deepstack)

    @property
    def num_bytes(self) -> int:
        """Memory that they take."""
        return sum(tensor.nbytes for tensor in self.tensors)


def page_features(model: Any, pixel_values: Tensor, image_grid_thw: Tensor) -> PageFeatures:
    """Run the vision tower over pages, without gradient.

    The last bits of a page's features depend on the pages beside it, since products of other sizes
    add in another order: where they must not, come with one page at a time.

    Args:
        model: Transformers or PEFT model; the tower's blocks must be frozen.
        pixel_values: Patches of all pages, ``[patches, 1536]``.
        image_grid_thw: Grid of each page in patches, int64 ``[pages, 3]``.
    """
    visual: Any = tower_of(model)
    taken: dict[int, Tensor] = {}
    with torch.no_grad(), ExitStack() as stack:
        for number, merger in enumerate(_mergers(visual)):
            if _is_trained(merger):
                stack.enter_context(_taking_input(merger, number, taken))
        output = visual(pixel_values.type(visual.dtype), grid_thw=image_grid_thw, return_dict=True)
    made = (output.pooler_output, *output.deepstack_features)
    pooled, *deepstack = (taken.get(number, tensor) for number, tensor in enumerate(made))
    return PageFeatures(pooled, tuple(deepstack))


def join_pages(parts: Sequence[PageFeatures]) -> PageFeatures:
    """Features of pages one after the other, of at least one part."""
    if len(parts) == 1:
        return parts[0]
    pooled, *deepstack = (
        torch.cat(tensors) for tensors in zip(*(p.tensors for p in parts), strict=True)
    )
    return PageFeatures(pooled, tuple(deepstack))


def embed_pages(inner: Any, input_ids: Tensor, features: PageFeatures) -> dict[str, Any]:
    """A batch's words and pages, as the language model takes them.

    Args:
        inner: The transformers model without its head.
        input_ids: ``[B, T]``, a placeholder for each token of a page.
        features: Of all pages in order.

    Returns:
        Arguments of ``inner.language_model``.
    """
    embedded = inner.get_input_embeddings()(input_ids)
    at_pages = input_ids == inner.config.image_token_id
    pooled, *deepstack = (
        merger(tensor) if _is_trained(merger) else tensor
        for merger, tensor in zip(_mergers(inner.visual), features.tensors, strict=True)
    )
    embedded = embedded.masked_scatter(at_pages[..., None], pooled.to(embedded.dtype))
    return {
        "inputs_embeds": embedded,
        "visual_pos_masks": at_pages,
        "deepstack_visual_embeds": deepstack,
    }


def has_frozen_blocks(visual: Any) -> bool:
    """Whether nothing of a tower is trained but mergers."""
    trained = {id(p) for p in visual.parameters() if p.requires_grad}
    return trained <= {id(p) for merger in _mergers(visual) for p in merger.parameters()}


def feature_widths(visual: Any) -> list[int]:
    """Numbers that are kept of a token of a page, by merger."""
    config = visual.config
    return [
        PATCHES_PER_TOKEN * config.hidden_size if _is_trained(merger) else config.out_hidden_size
        for merger in _mergers(visual)
    ]


def fixed_weights(visual: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors that decide features: all but those of trained mergers."""
    trained = {id(p) for m in _mergers(visual) if _is_trained(m) for p in m.parameters()}
    yield from ((name, p) for name, p in visual.named_parameters() if id(p) not in trained)
    yield from visual.named_buffers()


def _mergers(visual: Any) -> list[Any]:
    return [visual.merger, *visual.deepstack_merger_list]


def _is_trained(merger: Any) -> bool:
    return any(p.requires_grad for p in merger.parameters())


@contextmanager
def _taking_input(merger: Any, number: int, taken: dict[int, Tensor]) -> Iterator[None]:
    """Within this context what ``merger`` is given is put into ``taken``."""

    def take(_: Any, arguments: tuple[Tensor, ...]) -> None:
        taken[number] = arguments[0].detach()

    handle = merger.register_forward_pre_hook(take)
    try:
        yield
    finally:
        handle.remove()
