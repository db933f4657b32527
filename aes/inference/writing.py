"""Text as the model writes it, token by token: comments under a grammar, and free answers.

Always the likeliest token that may come next. Knows how text ends; knows nothing of scores.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import torch

from aes.data.processor import Processor
from aes.inference.decoder import CachedRows
from aes.inference.grammar import Among, Written, grammar_tokenizer
from aes.inference.scores import ScoredAnswer


class Writer(Protocol):
    """What a row writes with."""

    def choose(self, likeliest: int, among: Among) -> int:
        """Write the likeliest token that may come next.

        Args:
            likeliest: The likeliest of all.
            among: Finds the likeliest of those allowed.
        """

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left for the model to decide."""


class FreeText:
    """An answer without any form, up to an end token.

    Control characters are left out, but for line feeds and tabs: whoever shows the text on a
    terminal must not be at the mercy of what a pupil's page made the model write.

    Args:
        processor: Gives the words and what ends a text.
    """

    def __init__(self, processor: Processor) -> None:
        self._tokenizer = grammar_tokenizer(processor)
        self._ends = {processor.end_token, processor.pad_token}
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self.is_settled = False
        self.text = ""

    def choose(self, likeliest: int, among: Among) -> int:
        """Write any token that there is; a special one leaves nothing in the text."""
        if likeliest >= self._tokenizer.vocab_size:
            likeliest = among(torch.ones(self._tokenizer.vocab_size, dtype=torch.bool))
        self.is_settled = likeliest in self._ends
        if not self._tokenizer.is_special_token(likeliest):
            # Whole characters only; the bytes of a half one wait for the rest.
            piece = self._decoder.decode(self._tokenizer.decode_bytes([likeliest]))
            self.text += "".join(filter(is_harmless, piece))
        return likeliest


def is_harmless(char: str) -> bool:
    """Whether a terminal can show it and nothing else happens."""
    return char in "\n\t" or unicodedata.category(char) != "Cc"


def write(rows: CachedRows, writers: Sequence[Writer], *, max_tokens: int) -> Iterator[bool]:
    """Let each row write until it is settled or has written ``max_tokens``.

    Rows that are done leave the batch, so that the others go on without them.

    Args:
        rows: Stand where the text begins.
        writers: One a row.

    Yields:
        After each token of all rows that are left, whether any goes on.
    """
    writing = list(writers)
    rows.begin_steps(max_tokens - 1)
    for number in range(1, max_tokens + 1):
        found = rows.likeliest()
        best = found.words
        chosen = [w.choose(best[i], partial(found.among, i)) for i, w in enumerate(writing)]
        left = [i for i, writer in enumerate(writing) if not writer.is_settled]
        if not left or number == max_tokens:
            yield False
            return
        yield True
        if len(left) < len(writing):
            left = rows.keep(left)
            writing = [writing[i] for i in left]
        rows.advance([chosen[i] for i in left])


def write_feedback(
    rows: CachedRows,
    scored: Sequence[ScoredAnswer],
    written: Sequence[Written],
    *,
    max_tokens: int,
) -> None:
    """Complete answers: what was scored, and a comment where one is asked for.

    Args:
        rows: As ``write_scores`` left them.
        scored: Up to where the comment begins, or the answer ends.
        written: Answers with nothing in them; whole ones afterwards.
        max_tokens: Longest comment; it is closed there.
    """
    for answer, beginning in zip(written, scored, strict=True):
        answer.append(beginning.tokens)
    asking = [i for i, answer in enumerate(written) if not answer.is_whole]
    if not asking:
        return
    asking = rows.keep(asking)
    rows.feed([scored[i].take_unfed() for i in asking])
    for _ in write(rows, [written[i] for i in asking], max_tokens=max_tokens):
        pass
    for i in asking:
        written[i].close()
