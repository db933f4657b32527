"""A policy -> parts of the model whose activations are computed again in the backward pass.

Less memory for more work. What is recomputed is exactly what was computed: dropout draws the same
numbers, and autocast is as it was. Which policy fits a device is decided in ``aes.plan``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import MethodType
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from aes.kernels.parts import language_model_of, tower_of
from aes.kernels.vision import has_frozen_blocks

Policy = Literal["none", "attention", "every_nth", "all"]


def checkpoint_layers(model: Any, policy: Policy, every: int) -> None:
    """Have parts of a model recomputed where gradients are wanted; for good.

    A tower in which something is trained is recomputed whole under ``all``; one that is frozen
    keeps nothing that could be recomputed.

    Args:
        model: Transformers or PEFT model, with its adapter, whole or in shards.
        policy: ``attention``: of each decoder layer its attention; ``every_nth``: each n-th layer
            whole; ``all``: each layer.
        every: The n of ``every_nth``; at least 1.
    """
    for module in _recomputed(model, policy, every):
        _recompute(module)


def is_recomputed(index: int, policy: Policy, every: int) -> bool:
    """Whether a decoder layer, counted from 0, is recomputed as a whole.

    The first of each ``every``: when its turn comes in the backward pass, the activations of those
    behind it are gone, so that it adds nothing to the peak.
    """
    return policy == "all" or (policy == "every_nth" and index % every == 0)


def _recomputed(model: Any, policy: Policy, every: int) -> Iterator[nn.Module]:
    for index, layer in enumerate(language_model_of(model).layers):
        if policy == "attention":
            yield layer.self_attn
        elif is_recomputed(index, policy, every):
            yield layer
    tower = tower_of(model)
    if policy == "all" and tower is not None and not has_frozen_blocks(tower):
        yield from tower.blocks


def _recompute(module: nn.Module) -> None:
    """Wrap ``forward`` and not the call: hooks, which gather shards, stay outside."""
    # Of its class, or what another kernel put in its place.
    plain = cast(MethodType, module.forward).__func__

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # A pass that fills a cache must not be done twice.
        is_cached = kwargs.get("past_key_values") is not None
        if is_cached or not (self.training and torch.is_grad_enabled()):
            return plain(self, *args, **kwargs)
        return checkpoint(partial(plain, self, **kwargs), *args, use_reentrant=False)

    module.forward = MethodType(forward, module)
