"""AdamW over what is trained, and the learning rate's course over the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from aes.training.spec import OptimSpec


def parameter_groups(model: Any, spec: OptimSpec) -> list[dict[str, Any]]:
    """What is trained, a group for each rate, as optimisers take them.

    Raises:
        ValueError: If ``lr_factors`` names a module that nothing is trained in.
    """
    groups: dict[str, list[torch.nn.Parameter]] = {"": [], **{name: [] for name in spec.lr_factors}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner = next((m for m in spec.lr_factors if f".{m}." in f".{name}"), "")
            groups[owner].append(parameter)
    for module in spec.lr_factors:
        if not groups[module]:
            raise ValueError(
                f"optim.lr_factors names {module}, but nothing is trained there; remove it or add "
                "the module to adapter.modules_to_save"
            )
    return [
        {"params": parameters, "lr": spec.lr * spec.lr_factors.get(name, 1.0)}
        for name, parameters in groups.items()
        if parameters
    ]


def build_optimizer(model: Any, spec: OptimSpec) -> torch.optim.AdamW:
    """AdamW over ``parameter_groups``; raises as that does."""
    return torch.optim.AdamW(
        parameter_groups(model, spec),
        lr=spec.lr,
        betas=spec.betas,
        eps=spec.eps,
        weight_decay=spec.weight_decay,
    )


def lr_course(spec: OptimSpec, *, num_steps: int) -> Callable[[int], float]:
    """Factor on the learning rate by optimiser step, 0 to ``num_steps``.

    Rises linearly from 0 over the warm-up, then falls to 0 along half a cosine or a line, or stays.
    """
    warmup = math.ceil(spec.warmup_ratio * num_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        done = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        if spec.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        return 1 - done if spec.schedule == "linear" else 1.0

    return factor


def build_schedule(
    optimizer: torch.optim.Optimizer, spec: OptimSpec, *, num_steps: int
) -> LambdaLR:
    """The course of ``lr_course`` over ``num_steps`` optimiser steps."""
    return LambdaLR(optimizer, lr_course(spec, num_steps=num_steps))
