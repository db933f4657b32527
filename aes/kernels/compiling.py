"""``torch.compile`` of the decoder layers, one code for all of them, and what it needs here."""

from __future__ import annotations

import os
import shutil
from types import MethodType
from typing import Any

import torch

from aes.kernels.fused import RECOMPILE_LIMIT
from aes.kernels.parts import language_model_of


def compile_layers(model: Any) -> None:
    """Have each decoder layer's training passes compiled at the first of them; for good.

    The number of samples and their lengths may change freely. Passes without a gradient, which
    extend caches of their own kinds, stay as they are, and so do hooks. Call it behind all that
    replaces forwards, checkpointing too.
    """
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    for layer in language_model_of(model).layers:
        _compile(layer)


def _compile(layer: Any) -> None:
    plain = layer.forward.__func__  # of its class, so that layers share what is compiled
    compiled = torch.compile(plain, dynamic=True)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        trains = self.training and torch.is_grad_enabled()
        return (compiled if trains else plain)(self, *args, **kwargs)

    layer.forward = MethodType(forward, layer)


def missing_compiler(accelerator: str) -> str | None:
    """The compiler that ``torch.compile`` wants and does not find here; ``None``: nothing is."""
    if accelerator == "cpu":
        wanted = os.environ.get("CXX", "g++")
        return None if shutil.which(wanted) else f"the C++ compiler {wanted}"
    own = os.environ.get("CC")
    found = shutil.which(own) if own else shutil.which("gcc") or shutil.which("clang")
    return None if found else "a C compiler (gcc or clang)"
