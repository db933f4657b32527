"""A model's weights -> how many there are in each part, and how many of them are trained.

Works on any Qwen3 or Qwen3-VL module, on the meta device too; knows names of parameters and nothing
of what they compute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import nn


class ParameterCount(NamedTuple):
    """Parameters of one part of a model: all of them, and those that are trained."""

    total: int
    trainable: int


# First match wins, so what PEFT adds comes before the weights that it sits beside.
_GROUPS: tuple[tuple[str, str], ...] = (
    ("trained whole", r"\.modules_to_save\."),
    ("LoRA: vision", r"visual\..*lora_"),
    ("LoRA: experts", r"experts\..*lora_"),
    ("LoRA: attention", r"lora_"),
    ("merger", r"visual\..*merger"),
    ("vision tower", r"visual\."),
    ("embeddings", r"embed_tokens"),
    ("lm_head", r"lm_head"),
    ("norms", r"norm"),
    ("attention", r"self_attn"),
    ("experts", r"experts"),
    ("router", r"mlp\.gate\."),
    ("MLP", r"mlp"),
)

Parameters = Mapping[str, tuple[int, int]]
"""Part of the model -> (parameters, trained parameters), as `count_parameters` gives it."""


def count_parameters(model: nn.Module) -> dict[str, ParameterCount]:
    """Parameters by part of the model, tied weights once, parts without any left out.

    ``trained whole`` holds the trained copies that PEFT makes of ``modules_to_save``; the frozen
    originals stay in their own part, as they stay in memory. Under ``model.train()`` of every
    weight, each part is simply all trainable.
    """
    counts: dict[str, ParameterCount] = {}
    for name, weight in model.named_parameters():
        group = next((g for g, pattern in _GROUPS if re.search(pattern, name)), "other")
        total, trainable = counts.get(group, (0, 0))
        size = weight.numel()
        counts[group] = ParameterCount(total + size, trainable + size * weight.requires_grad)
    return counts


def sum_parameters(parameters: Parameters, *groups: str) -> ParameterCount:
    """Counts of some parts added up; of all parts if none is named."""
    chosen = [parameters.get(g, (0, 0)) for g in groups] if groups else list(parameters.values())
    return ParameterCount(sum(c[0] for c in chosen), sum(c[1] for c in chosen))
