"""Qwen3-VL and what is trained of it."""

from aes.model.spec import AdapterSpec, LoraSpec, ModelSpec, NoAdapterSpec

__all__ = ["AdapterSpec", "LoraSpec", "ModelSpec", "NoAdapterSpec"]
