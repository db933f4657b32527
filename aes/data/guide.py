"""Which tokens a valid score allows at each step of writing it, digit by digit.

A trait's steps make a tree: its nodes are the places where there is a choice, its paths are the
valid scores. A score's probability is the product of the choices along its path.

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
        ranges: Lowest and highest score by trait; none where answers are not scored.

    Attributes:
        table: Allowed token ids by step, int64 ``[steps, most]``, filled up with -1.
        nodes: Digits so far at each node of a trait's tree, parents first; the root is ``""``.
        paths: The choices that make a score, int64 ``[traits, scores, digits + 1]``: each is
            ``node * most + place among the allowed tokens``; filled up with -1. A score stands at
            its distance from the trait's lowest.
    """

    def __init__(self, tokenizer: Encoder, ranges: Mapping[str, tuple[int, int]]) -> None:
        self.ranges = dict(ranges)
        self._steps: dict[tuple[str, bool, str], Step] = {}
        self.digits = {d: _only_token(tokenizer, d) for d in "0123456789"}
        for feedback in (False, True) if self.ranges else ():
            schema = AnswerSchema(ranges=self.ranges, feedback=feedback)
            leads = [*(lead for _, lead in schema.leads()[1:]), schema.opening_of_feedback()]
            for (name, (low, high)), after in zip(self.ranges.items(), leads, strict=True):
                end = tokenizer.encode(after, add_special_tokens=False)[0]
                self._add_trait(name, feedback, low, high, end)
        self._places = tuple(self._steps)
        self.table = self._build_table()
        self.nodes = {name: ("", *self.open_prefixes(name)) for name in self.ranges}
        self.paths = self._build_paths()

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

    def place(self, index: int) -> tuple[str, bool, str]:
        """Trait, feedback and digits so far of the step in row ``index`` of ``table``."""
        return self._places[index]

    def open_prefixes(self, name: str) -> list[str]:
        """Non-empty digit strings of a trait after which another digit may come."""
        return [
            prefix
            for (trait, feedback, prefix), step in self._steps.items()
            if trait == name and not feedback and prefix and step.next_digit
        ]

    def _build_table(self) -> Tensor:
        rows = [step.allowed for step in self._steps.values()]
        most = max(map(len, rows), default=0)
        table = torch.full((len(rows), most), -1, dtype=torch.int64)
        for i, row in enumerate(rows):
            table[i, : len(row)] = torch.tensor(row)
        return table

    def _build_paths(self) -> Tensor:
        num_scores = max((high - low for low, high in self.ranges.values()), default=-1) + 1
        num_choices = max((len(str(high)) for _, high in self.ranges.values()), default=-1) + 1
        paths = torch.full((len(self.ranges), num_scores, num_choices), -1, dtype=torch.int64)
        for trait, (name, (low, high)) in enumerate(self.ranges.items()):
            for score in range(low, high + 1):
                choices = self._choices(name, str(score))
                paths[trait, score - low, : len(choices)] = torch.tensor(choices)
        return paths

    def _choices(self, name: str, score: str) -> list[int]:
        """One path; see ``paths``. With feedback another token ends it, at the same place."""
        most, found = self.table.shape[1], []
        for k in range(len(score) + 1):
            if score[:k] in self.nodes[name]:  # elsewhere only the end is allowed: no choice
                digits = list(self.step(name, score[:k], feedback=False).next_digit)
                place = digits.index(score[k]) if k < len(score) else len(digits)
                found.append(self.nodes[name].index(score[:k]) * most + place)
        return found


def _only_token(tokenizer: Encoder, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(
            f"this tokenizer writes {text!r} as {len(ids)} tokens, but scores are read digit by "
            "digit; use a model with Qwen's vocabulary"
        )
    return ids[0]
