"""What is asked of vLLM, wherever it runs: beginnings of answers to be continued.

An answer is made of several requests. Each says what the answer begins with, what may follow, and
of which tokens the probabilities are wanted. Knows neither HTTP nor vLLM.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from aes.inference.prompts import Prompt

# What a JSON string may hold, character by character: the same that the answer's schema allows,
# with the escapes that our own grammar allows.
_CHARACTER = r'(?:[^"\\\x00-\x1f\x7f-\x9f]|\\["\\n])'
_COMPACT = {"x-guidance": {"whitespace_flexible": False, "json_allowed_escapes": '"\\n'}}


class NoAnswerError(Exception):
    """An essay got no answer, for a reason that other essays need not share.

    Its text is one clause, and never holds what the pupil or the model wrote.
    """


@dataclass(frozen=True)
class Begun:
    """The beginning of an answer; ``tokens`` are ``text`` as it is cut in training."""

    text: str = ""
    tokens: tuple[int, ...] = ()

    def plus(self, text: str, tokens: Sequence[int]) -> Begun:
        """With what comes next."""
        return Begun(self.text + text, (*self.tokens, *tokens))


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request.

    Attributes:
        begun: What the answer begins with; the model goes on behind it.
        max_tokens: Most tokens that it writes.
        looked_at: Tokens whose log-probabilities are wanted at the first place, over the whole
            vocabulary.
        schema: JSON schema of all that is written; ``None``: not held to one.
        pattern: Regular expression of all that is written, likewise.
        stops: Tokens that end the answer.
    """

    begun: Begun
    max_tokens: int
    looked_at: tuple[int, ...] = ()
    schema: Mapping[str, Any] | None = None
    pattern: str | None = None
    stops: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back.

    Attributes:
        tokens: Written behind the beginning, perhaps with the token that ended it.
        is_cut: It ended because of ``max_tokens``.
        log_shares: Log-probability of each token that was looked at.
    """

    tokens: tuple[int, ...]
    is_cut: bool
    log_shares: Mapping[int, float] = field(default_factory=dict)


Ask = Callable[[Question], Awaitable[Reply]]
"""Puts a question about one essay."""


class Backend(Protocol):
    """vLLM, wherever it runs. Used within one event loop at a time, from ``open`` to ``close``.

    Attributes:
        with_adapter: Whether what was trained answers, or the base.
        is_elsewhere: Whether it works while this process does something else.
    """

    with_adapter: bool
    is_elsewhere: bool

    async def open(self) -> None:
        """Get ready; to be called before anything is asked."""

    async def close(self) -> None:
        """Let go of what is open."""

    def asker(self, prompt: Prompt, pages: Sequence[Image.Image]) -> Ask:
        """How questions about one essay are put, its pages drawn."""

    def stream(
        self, prompt: Prompt, pages: Sequence[Image.Image], question: Question
    ) -> AsyncIterator[Sequence[int]]:
        """Tokens of one reply, as they are written."""

    def require_base(self) -> None:
        """Check that there is a base to answer without what was trained.

        Raises:
            ValueError: If there is none.
        """


def comment_pattern(max_chars: int) -> str:
    """What follows a comment's opening quote: the comment, and the end of the answer."""
    return f'{_CHARACTER}{{0,{max_chars}}}"\\}}'


def compact(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with the request to write it without white space, as it is trained.

    Source: ``x-guidance``, which llguidance reads from a schema; other grammars pass over it.
    """
    return {**schema, **_COMPACT}
