"""Examples to Answers: the only way to an answer."""

from aes.inference.spec import DecodingSpec, EngineSpec, HfEngineSpec, VllmSpec

__all__ = ["DecodingSpec", "EngineSpec", "HfEngineSpec", "VllmSpec"]
