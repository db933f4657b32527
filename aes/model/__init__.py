"""Qwen3-VL and what is trained of it."""

from aes.model.spec import (
    AdapterSpec,
    KernelSpec,
    LoraSpec,
    ModelSpec,
    NoAdapterSpec,
    VisionCacheSpec,
)

__all__ = [
    "AdapterSpec",
    "KernelSpec",
    "LoraSpec",
    "ModelSpec",
    "NoAdapterSpec",
    "VisionCacheSpec",
]
