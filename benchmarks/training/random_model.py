"""A geometry -> random weights on a device, and models around them: nothing is read from disk.

The weights are drawn once, on the device itself. Each model is a new skeleton that borrows them,
so ways of computing that cannot be undone do not disturb each other, and 57.9 GiB stand there once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForImageTextToText

from training.geometry import Geometry

_ADAPTED = r".*language_model\.layers\.\d+\.self_attn\.(?:q|k|v|o)_proj"
_STD = 0.02


def draw_weights(
    geometry: Geometry, *, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """All weights by name.

    Norms are 1 and biases 0. Embeddings have standard deviation 1 and all else 0.02, so that each
    token keeps a direction of its own through the layers and the router spreads them. Embeddings
    that are the head too are smaller, for logits of standard deviation 1.
    """
    text = geometry.text
    of_embeddings = text.hidden_size**-0.5 if text.tie_embeddings else 1.0
    generator = torch.Generator(device).manual_seed(0)
    weights: dict[str, Tensor] = {}
    for name, shape in _shapes(geometry).items():
        weight = torch.empty(shape, dtype=dtype, device=device)
        if name.endswith(".bias"):
            weight.zero_()
        elif len(shape) == 1:
            weight.fill_(1)
        else:
            weight.normal_(
                std=of_embeddings if "embed_tokens" in name else _STD, generator=generator
            )
        weights[name] = weight
    return weights


def build_model(geometry: Geometry, weights: dict[str, Tensor]) -> Any:
    """A model of its own around shared weights, with LoRA of rank 8 on q, k, v and o in float32.

    ``B`` is not zero as at the start of a training, since the gradient of ``A`` would be.
    """
    device = next(iter(weights.values())).device
    model = _skeleton(geometry)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    for module in model.modules():
        if hasattr(module, "original_inv_freq"):  # left on the meta device, made anew
            for name, buffer in type(module)(module.config).named_buffers():
                setattr(module, name, buffer.to(device))
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=_ADAPTED, bias="none", task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config)
    generator = torch.Generator(device).manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float().normal_(std=_STD, generator=generator)
    assert not any(t.is_meta for t in (*adapted.parameters(), *adapted.buffers()))
    return adapted.train()


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    """What is trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def watched_load(model: Any) -> Iterator[list[float]]:
    """Collects, a router's pass, the busiest expert's tokens over those of an even share."""
    found: list[float] = []

    def count(module: Any, _: Any, output: Any) -> None:
        chosen = torch.bincount(output[-1].flatten(), minlength=module.num_experts)
        found.append(float(chosen.max() / chosen.float().mean()))

    routers = [m for m in model.modules() if hasattr(m, "top_k") and hasattr(m, "num_experts")]
    handles = [router.register_forward_hook(count) for router in routers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _skeleton(geometry: Geometry) -> Any:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(
            geometry.config(), attn_implementation="sdpa"
        )


def _shapes(geometry: Geometry) -> dict[str, torch.Size]:
    """Shapes of all weights; a head that is the embedding comes once."""
    return {name: p.shape for name, p in _skeleton(geometry).named_parameters()}
