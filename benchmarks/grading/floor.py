"""The least time of a decoding step: what it must read, over what memory gives a second."""

from __future__ import annotations

import time
from typing import Any

import torch

from aes.kernels.parts import unwrap

_PROBE_BYTES = {"cpu": 2**28, "cuda": 2**32}


def bandwidth(device: torch.device) -> float:
    """Bytes a second that are read at most, of memory far larger than any cache: the best of 8."""
    probe = torch.ones(_PROBE_BYTES[device.type] // 4, device=device)
    best = float("inf")
    for _ in range(8):
        wait(device)
        start = time.perf_counter()
        probe.sum()
        wait(device)
        best = min(best, time.perf_counter() - start)
    return probe.nbytes / best


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def bytes_of_step(model: Any, *, num_rows: int, num_columns: int) -> dict[str, float]:
    """What one token a row must read: weights once, and each row's keys and values.

    Of a layer's experts those that a row goes to, as many as an even router would hit:
    ``E (1 - (1 - k / E) ** rows)``.

    Args:
        num_columns: Tokens of each row, on average over the steps.
    """
    base = unwrap(model)
    text = base.config.get_text_config()
    experts = others = 0.0
    for name, parameter in base.model.language_model.named_parameters():
        size = parameter.numel() * parameter.element_size()
        if ".experts." in name:
            hit = 1 - (1 - text.num_experts_per_tok / text.num_experts) ** num_rows
            experts += size * hit
        elif "embed_tokens" not in name:
            others += size
    head = base.lm_head.weight
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    return {
        "experts": experts,
        "other_weights": others,
        "lm_head": float(head.numel() * head.element_size()),
        "keys_and_values": float(num_rows * num_columns * per_token * head.element_size()),
    }
