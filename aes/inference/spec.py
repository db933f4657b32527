"""How answers are decoded, as plain settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DecodingSpec:
    """Decoding.

    Attributes:
        score: ``expected``: the mean of the distribution over all valid scores, rounded;
            ``greedy``: the likeliest valid digits, one after the other.
        batch_size: Examples decoded together.
        max_feedback_tokens: Longest feedback; it is closed there.
    """

    score: Literal["expected", "greedy"]
    batch_size: Annotated[int, Field(ge=1)]
    max_feedback_tokens: Annotated[int, Field(ge=1)]
