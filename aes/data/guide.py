"""Which tokens a valid score allows at each step of writing it, digit by digit.

The one source of this truth: the loss over valid digits and the decoder both read it, so training
and decoding cannot disagree. Knows token ids and ranges; knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from aes.prompt import AnswerSchema


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of ``text``."""


@dataclass(frozen=True)
class Step:
    """A place in a score: what may be written next.

    Attributes:
        index: Row of this step in ``ScoreGuide.table``.
        next_digit: Allowed digit characters and their token ids.
        end: Token that ends the score here; ``None`` where the digits so far are no valid score.
    """

    index: int
    next_digit: Mapping[str, int]
    end: int | None

    @property
    def allowed(self) -> tuple[int, ...]:
        """Token ids that may come next."""
        return (*self.next_digit.values(), *(() if self.end is None else (self.end,)))


class ScoreGuide:
    """Steps of every trait's score, for answers with and without feedback.

    Args:
        tokenizer: Gives the ids of digits and of what follows a score.
        ranges: Lowest and highest score by trait.
    """

    def __init__(self, tokenizer: Encoder, ranges: Mapping[str, tuple[int, int]]) -> None:
        self.ranges = dict(ranges)
        self._steps: dict[tuple[str, bool, str], Step] = {}
        self.digits = {d: _only_token(tokenizer, d) for d in "0123456789"}
        for feedback in (False, True):
            schema = AnswerSchema(ranges=self.ranges, feedback=feedback)
            leads = [*(lead for _, lead in schema.leads()[1:]), schema.opening_of_feedback()]
            for (name, (low, high)), after in zip(self.ranges.items(), leads, strict=True):
                end = tokenizer.encode(after, add_special_tokens=False)[0]
                self._add_trait(name, feedback, low, high, end)
        self.table = self._build_table()

    def _add_trait(self, name: str, feedback: bool, low: int, high: int, end: int) -> None:
        scores = [str(score) for score in range(low, high + 1)]
        prefixes = dict.fromkeys(s[:i] for s in scores for i in range(len(s) + 1))
        for prefix in prefixes:
            longer = {
                s[len(prefix)] for s in scores if s.startswith(prefix) and len(s) > len(prefix)
            }
            self._steps[name, feedback, prefix] = Step(
                index=len(self._steps),
                next_digit={d: self.digits[d] for d in sorted(longer)},
                end=end if prefix in scores else None,
            )

    def step(self, name: str, prefix: str, *, feedback: bool) -> Step:
        """The step of trait ``name`` after the digits ``prefix``."""
        return self._steps[name, feedback, prefix]

    def open_prefixes(self, name: str) -> list[str]:
        """Non-empty digit strings of a trait after which another digit may come."""
        return [
            prefix
            for (trait, feedback, prefix), step in self._steps.items()
            if trait == name and not feedback and prefix and step.next_digit
        ]

    def _build_table(self) -> Tensor:
        """Allowed token ids by step, int64 ``[steps, most]``, filled up with -1."""
        rows = [step.allowed for step in self._steps.values()]
        table = torch.full((len(rows), max(map(len, rows))), -1, dtype=torch.int64)
        for i, row in enumerate(rows):
            table[i, : len(row)] = torch.tensor(row)
        return table


def _only_token(tokenizer: Encoder, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(
            f"this tokenizer writes {text!r} as {len(ids)} tokens, but scores are read digit by "
            "digit; use a model with Qwen's vocabulary"
        )
    return ids[0]
