"""How answers are decoded, as plain settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DecodingSpec:
    """Decoding; always greedy, so that an answer can be had again.

    Attributes:
        constrained: Whether a graded answer is held to the rubric's JSON schema and comes with its
            distributions. Without, the model writes as it likes, an answer may be unreadable, and
            the number of forward passes depends on what it writes: not for several ranks.
        score: ``expected``: the mean of the distribution over all valid scores, rounded;
            ``greedy``: the likeliest valid digits, one after the other; ``distribution`` changes
            nothing there.
        distribution: Which distribution over the valid scores comes with an answer.
            ``constrained``: that of the decoder, which has the model choose among the valid tokens
            at each digit: a score's probability is the product of its digits' and its ending's
            shares, each normalised among the valid tokens there. The losses ``valid_digits``,
            ``expected`` and ``ordinal`` train these shares and nothing else, so they need it.
            ``model``: the probability that the model writes the score, which is the product of its
            digits' and its ending's over the whole vocabulary, normalised once over all valid
            scores. After ``ce``, which trains it, either will do: both nearly coincide where
            almost all mass lies on valid scores, and may be far apart where it does not.
        batch_size: Examples decoded together.
        max_feedback_chars: Longest feedback, in characters; part of the schema.
        max_feedback_tokens: Longest feedback, in tokens; it is closed there.
        max_answer_tokens: Longest free answer, in tokens; it is cut there.
    """

    constrained: bool
    score: Literal["expected", "greedy"]
    distribution: Literal["constrained", "model"]
    batch_size: Annotated[int, Field(ge=1)]
    max_feedback_chars: Annotated[int, Field(ge=1)]
    max_feedback_tokens: Annotated[int, Field(ge=1)]
    max_answer_tokens: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class HfEngineSpec:
    """The loaded model answers by itself.

    Attributes:
        static_cache: Keys and values are written in place, without a copy at each token.
        cuda_graphs: A decoding step is recorded once and replayed; on a card only.
    """

    static_cache: bool
    cuda_graphs: bool


EngineSpec = HfEngineSpec
