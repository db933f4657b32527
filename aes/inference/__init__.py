"""Examples to Answers: the only way to an answer."""

from aes.inference.spec import DecodingSpec

__all__ = ["DecodingSpec"]
