"""Examples to Answers: the only way to an answer."""

from aes.inference.spec import DecodingSpec, EngineSpec, HfEngineSpec

__all__ = ["DecodingSpec", "EngineSpec", "HfEngineSpec"]
