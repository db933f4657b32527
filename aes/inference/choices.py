"""An answer that is one of some texts: how likely the model writes each, and which it would.

A text's probability is the product of its tokens' and the end token's over the whole vocabulary, so
a long label is not favoured for its first word, and one that begins like another is told from it.
All beginnings of all texts are looked at side by side behind the prompt, in one pass: how many
passes there are depends on nothing but the number of batches. Knows no rubric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aes.inference.decoder import Branch, CachedRows
from aes.kernels.forward import logits

_ROWS_AT_ONCE = 32
"""Rows of logits that are there at once: 20 MB of 151,936 words each in float32."""


class ChoiceTree:
    """The beginnings of some texts, each once.

    Args:
        choices: Tokens of each text, its end token included; no two alike.

    Attributes:
        branches: The beginnings behind the empty one, parents first.
        wanted: Tokens that may follow each beginning, the empty one first, int64
            ``[beginnings, most]``, filled up with 0.
        paths: Places in the flattened ``wanted`` that make up each text, int64
            ``[texts, longest]``, filled up with -1.
    """

    def __init__(self, choices: Sequence[Sequence[int]]) -> None:
        assert len({tuple(tokens) for tokens in choices}) == len(choices), "choices differ"
        self.branches: list[Branch] = []
        places: dict[tuple[int, ...], int] = {(): 0}
        follows: list[list[int]] = [[]]
        steps: list[list[tuple[int, int]]] = []
        for tokens in choices:
            steps.append([])
            for length, token in enumerate(tokens):
                before = tuple(tokens[:length])
                if before not in places:
                    places[before] = len(follows)
                    self.branches.append(Branch(before[-1], places[before[:-1]] - 1))
                    follows.append([])
                ways = follows[places[before]]
                if token not in ways:
                    ways.append(token)
                steps[-1].append((places[before], ways.index(token)))
        most = max(map(len, follows))
        self.wanted = torch.tensor([ways + [0] * (most - len(ways)) for ways in follows])
        longest = max(map(len, steps))
        self.paths = torch.full((len(steps), longest), -1, dtype=torch.int64)
        for number, path in enumerate(steps):
            self.paths[number, : len(path)] = torch.tensor([p * most + w for p, w in path])


def score_choices(rows: CachedRows, tree: ChoiceTree) -> Tensor:
    """Log-probability of each text and its end behind each prompt, float32 ``[B, texts]``.

    Args:
        rows: Stand behind their prompts, and go on standing there.
    """
    num_rows = len(rows.states)
    ahead = rows.feed([[]] * num_rows, tree.branches) if tree.branches else None
    states = rows.states[:, None]
    if ahead is not None:
        states = torch.cat([states, ahead], dim=1)
    wanted = tree.wanted.to(states.device).expand(num_rows, -1, -1)
    shares = _log_shares(rows.model, states.flatten(0, 1), wanted.flatten(0, 1))
    of_steps = shares.view(num_rows, -1)[:, tree.paths.clamp(min=0).to(states.device)]
    is_step = (tree.paths >= 0).to(states.device)
    return of_steps.where(is_step, of_steps.new_zeros(())).sum(dim=2)


def _log_shares(model: Any, states: Tensor, wanted: Tensor) -> Tensor:
    """Log-probabilities of a few words a row, over the whole vocabulary, ``[rows, most]``."""
    found = [
        logits(model, states[start : start + _ROWS_AT_ONCE])
        .log_softmax(dim=-1)
        .gather(1, wanted[start : start + _ROWS_AT_ONCE])
        for start in range(0, len(states), _ROWS_AT_ONCE)
    ]
    return torch.cat(found)
