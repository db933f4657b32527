"""How answers are decoded, as plain settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DecodingSpec:
    """Decoding; always greedy, so that an answer can be had again.

    Attributes:
        constrained: Whether a graded answer is held to the rubric's JSON schema and comes with its
            distributions, and an answer that is one of some choices is the likeliest of them, with
            the probability of each. Without, the model writes as it likes, an answer may be
            unreadable, and the number of forward passes depends on what it writes: not for several
            ranks.
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
        cuda_graphs: ``auto``: a decoding step is recorded once and replayed, where that can be: on
            a card, with a static cache and weights that are whole on each rank.
        word_search: How the likeliest next word is found. ``full``: by the logits of all words.
            ``screened``: a bfloat16 copy of ``lm_head`` finds the few that can be it, and float32
            decides among them; for float32 weights on a CPU. ``auto``: ``screened`` where that is
            faster.
    """

    static_cache: bool
    cuda_graphs: Literal["auto", "never"]
    word_search: Literal["auto", "full", "screened"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class VllmSpec:
    """vLLM answers: on servers, or in this process where no server is named.

    Attributes:
        urls: OpenAI-compatible servers, such as ``http://127.0.0.1:8000/v1``; work is spread over
            them. Empty: vLLM's offline engine in this process.
        adapter: Name under which the servers offer what the run trained, be it an adapter or a
            whole model.
        base_model: Name under which they offer the base; ``None``: what they call the adapter's
            parent. For answers without the adapter alone.
        allow_remote: Pupils' essays may be sent to servers outside private networks.
        api_key_env: Environment variable that holds the servers' key; ``None``: they want none.
        max_in_flight: Essays, and requests, under way at once; of the offline engine the essays.
        timeout_s: Longest wait for any part of a reply.
        num_retries: Further tries of a request that fails, on another server where there is one.
        tensor_parallel_size: Cards that share the weights offline; ``None``: one.
        gpu_memory_utilization: Share of a card that the offline engine takes; ``None``: vLLM's own.
    """

    urls: tuple[str, ...]
    adapter: Annotated[str, Field(min_length=1)]
    base_model: Annotated[str, Field(min_length=1)] | None
    allow_remote: bool
    api_key_env: Annotated[str, Field(min_length=1)] | None
    max_in_flight: Annotated[int, Field(ge=1, le=4096)]
    timeout_s: Annotated[float, Field(gt=0)]
    num_retries: Annotated[int, Field(ge=0, le=20)]
    tensor_parallel_size: Annotated[int, Field(ge=1)] | None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None

    @model_validator(mode="after")
    def _check_place(self) -> VllmSpec:
        """What belongs to servers does nothing offline, and the other way round."""
        names = ("tensor_parallel_size", "gpu_memory_utilization")
        where = "the servers that urls names have their own"
        if not self.urls:
            names, where = ("base_model", "api_key_env"), "urls names no server"
        for name in names:
            if getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect, since {where}; leave it out")
        if self.allow_remote and not self.urls:
            raise ValueError("allow_remote has no effect, since urls names no server; leave it out")
        return self


EngineSpec = HfEngineSpec | VllmSpec
