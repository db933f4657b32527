"""An answer's JSON schema -> which tokens may come next, by llguidance.

Why llguidance: MIT and without dependencies of its own (xgrammar brings triton); it walks the
vocabulary anew for each mask instead of compiling an automaton over 151,669 words (outlines-core);
and it knows bounds of integers and of lengths natively. Knows no model and no rubric.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aes.data.processor import Processor

Among = Callable[[Tensor], int]
"""Finds the likeliest of the allowed words, bool ``[words]``; words beyond are not allowed."""

# A comment needs no other; so what is written is what ``json.dumps`` would write.
_ESCAPES = '"\\n'


@lru_cache(maxsize=4)
def grammar_tokenizer(processor: Processor) -> Any:
    """Llguidance's view of the processor's vocabulary; built once, in about a second."""
    import llguidance.hf

    return llguidance.hf.from_tokenizer(processor.tokenizer, eos_token=processor.end_token)


class Grammar:
    """The answers that one JSON schema allows, written compactly.

    Args:
        processor: Its tokens are what answers are made of.
        schema: JSON schema.
    """

    def __init__(self, processor: Processor, schema: Mapping[str, Any]) -> None:
        from llguidance import LLMatcher

        self._tokenizer = grammar_tokenizer(processor)
        grammar = LLMatcher.grammar_from_json_schema(
            json.dumps(schema),
            overrides={"whitespace_flexible": False, "json_allowed_escapes": _ESCAPES},
        )
        self._start = LLMatcher(self._tokenizer, grammar, log_level=0)
        assert not self._start.is_error(), self._start.get_error()

    def start(self) -> Written:
        """An answer of which nothing is written."""
        return Written(self._start.deep_copy(), self._tokenizer)


class Written:
    """An answer as far as it is written; it cannot be anything but a beginning of a valid one.

    Args:
        matcher: llguidance's matcher, which this object makes its own.
        tokenizer: See ``grammar_tokenizer``.
    """

    def __init__(self, matcher: Any, tokenizer: Any) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._tokens: list[int] = []

    def append(self, tokens: Sequence[int]) -> None:
        """Write what is prescribed or was chosen elsewhere."""
        assert self._try(tokens), "what we write must follow the answer's own schema"

    def accept(self, tokens: Sequence[int]) -> bool:
        """Write what was chosen elsewhere, if it may come next; whether it did."""
        return self._try(tokens)

    def allowed(self) -> Tensor:
        """Which tokens may come next, bool ``[words]``; words that a model has beyond may not."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little").astype(bool))

    def choose(self, likeliest: int, among: Among) -> int:
        """Write the likeliest token that may come next.

        A mask of the whole vocabulary costs more than to ask about one token, and a model that has
        learned the form seldom needs one.

        Args:
            likeliest: The likeliest token of all.
            among: Finds the likeliest of those allowed.
        """
        if self._try([likeliest]):
            return likeliest
        best = among(self.allowed())
        self.append([best])
        return best

    @property
    def is_settled(self) -> bool:
        """Whether all that may follow is prescribed, as the braces behind a text's last quote."""
        return self.is_whole or bool(self._matcher.compute_ff_bytes())

    @property
    def is_whole(self) -> bool:
        """Whether it is a valid answer as it stands."""
        return bool(self._matcher.is_accepting())

    def close(self) -> None:
        """Make it whole; a character or an escape that is left half written is taken back."""
        endings = [self._tokenizer.tokenize_str(ending) for ending in ('"}', "}")]
        while not self.is_whole:
            if not any(self._try(ending, whole=True) for ending in endings):
                self._matcher.rollback(1)
                self._tokens.pop()

    def text(self) -> str:
        """What is written; to be asked of a whole answer."""
        return bytes(self._tokenizer.decode_bytes(self._tokens)).decode()

    def _try(self, tokens: Sequence[int], *, whole: bool = False) -> bool:
        """Write all the tokens, and so as to make the answer ``whole``, or none."""
        if any(token >= self._tokenizer.vocab_size for token in tokens):
            return False  # the matcher would never recover from a word that it does not know
        taken = self._matcher.try_consume_tokens(list(tokens))
        if taken == len(tokens) and (self.is_whole or not whole):
            self._tokens += tokens
            return True
        self._matcher.rollback(taken)
        return False
