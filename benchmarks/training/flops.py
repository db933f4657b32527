"""Floating-point operations that a step needs, from the geometry alone. Knows no kernel.

A multiplication and an addition are two. The base is frozen, so backward is the gradient of the
inputs alone, as much as forward; the adapter's own share (6.7 M of 2.7 B parameters) is left out.
Attention has no weights: its backward is five products to the forward's two, the scores among them,
which nobody keeps.
"""

from __future__ import annotations

from collections.abc import Sequence

from training.geometry import Geometry, Text

ATTENTION_PASSES = 3.5
"""Forward and backward of attention, in forwards. Source: Dao (2023), FlashAttention-2."""


def projections(text: Text) -> int:
    """Of one token in q, k, v and o of all layers, forward."""
    heads = 2 * text.num_heads + 2 * text.num_kv_heads
    return 2 * text.num_layers * text.hidden_size * text.head_dim * heads


def experts(text: Text) -> int:
    """Of one token in the router and its experts of all layers, forward."""
    chosen = 3 * text.experts_per_token * text.expert_intermediate_size
    return 2 * text.num_layers * text.hidden_size * (chosen + text.num_experts)


def attention(text: Text, length: int) -> int:
    """Of one token's scores and sums in a causal sequence of ``length``, on average, forward."""
    return 2 * text.num_layers * length * text.num_heads * text.head_dim


def head(text: Text) -> int:
    """Of one token's logits, forward."""
    return 2 * text.hidden_size * text.vocab_size


def page(geometry: Geometry) -> int:
    """Of one page through the tower and the mergers, forward."""
    vision, rows_columns = geometry.vision, geometry.job.page
    num_tokens = rows_columns[0] * rows_columns[1]
    num_patches, hidden = 4 * num_tokens, vision.hidden_size
    block = 2 * (4 * hidden**2 + 2 * hidden * vision.intermediate_size) + 4 * num_patches * hidden
    merger = 2 * (4 * hidden) * (4 * hidden + geometry.text.hidden_size)
    return (
        num_patches * (vision.depth * block + 2 * 1536 * hidden)
        + num_tokens * (1 + len(vision.deepstack_layers)) * merger
    )


def step(
    geometry: Geometry, lengths: Sequence[int], num_supervised: int, *, with_tower: bool
) -> float:
    """Of a training step over samples of these lengths, nothing of it computed again.

    Args:
        lengths: Tokens of each sample, a page each.
        num_supervised: Tokens that logits are needed for.
        with_tower: Whether the pages' features are computed in the step.
    """
    text = geometry.text
    products = sum(lengths) * (projections(text) + experts(text)) + num_supervised * head(text)
    scores = sum(length * attention(text, length) for length in lengths)
    tower = len(lengths) * page(geometry) if with_tower else 0
    return 2.0 * products + ATTENTION_PASSES * scores + tower


def recomputed(geometry: Geometry, lengths: Sequence[int], policy: str, every: int) -> float:
    """Of what checkpointing computes a second time in such a step.

    Args:
        policy: As ``aes.kernels.checkpointing`` names them.
        every: Which layers under ``every_nth``.
    """
    text = geometry.text
    of_attention = sum(n * (projections(text) + attention(text, n)) for n in lengths)
    of_layers = of_attention + sum(lengths) * experts(text)
    shares = {"none": 0.0, "attention": of_attention, "all": of_layers}
    return shares.get(policy, of_layers / every)
