"""Samples of a part -> a rank's share, as many on every rank, so that all make as many passes.

Nothing is in memory but places: samples are read when they are taken. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch.utils.data import Dataset

from aes.data.dataset import PageDataset
from aes.data.prepared import Prepared
from aes.data.sampler import Pick
from aes.records import Example


@dataclass(frozen=True, slots=True)
class Dealt:
    """One rank's Example.

    Attributes:
        counts: Whether it is this rank's own, and not a copy that only keeps ranks in step.
    """

    example: Example
    counts: bool


class Deal(Sequence[Dealt]):
    """A rank's share, as many on every rank, whatever the number of examples.

    Examples are taken when they are asked for, so a long part need not be in memory.
    """

    def __init__(self, examples: Sequence[Example], *, rank: int, num_ranks: int) -> None:
        self._examples = examples
        self._places = deal_places(range(len(examples)), rank=rank, num_ranks=num_ranks)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Dealt: ...
    @overload
    def __getitem__(self, at: slice) -> list[Dealt]: ...
    def __getitem__(self, at: int | slice) -> Dealt | list[Dealt]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        place, counts = self._places[at]
        return Dealt(self._examples[place], counts)


def deal_places(places: Sequence[int], *, rank: int, num_ranks: int) -> list[tuple[int, bool]]:
    """A rank's share of places, and whether each is its own; the others keep ranks in step."""
    num = -(-len(places) // num_ranks)
    own = [(place, True) for place in places[rank::num_ranks]]
    return own + [(place, False) for place in places[: num - len(own)]]


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Samples to validate on whose answers are texts.

    Attributes:
        dealt: The Examples.
        micro_batches: The same with their answers, as ``Collator`` gives them; of those that do
            not count nothing is supervised.
    """

    dealt: list[Dealt]
    micro_batches: list[dict[str, torch.Tensor]]


class TextRows(Dataset[tuple[dict[str, Any], Dealt]]):
    """A rank's share of validation samples as items and Examples, long ones first."""

    def __init__(
        self, items: PageDataset, prepared: Prepared, *, rank: int, num_ranks: int
    ) -> None:
        order = np.argsort(prepared.column("num_tokens"), kind="stable")[::-1].tolist()
        self._items, self._examples = items, prepared.examples()
        self._places = deal_places(order, rank=rank, num_ranks=num_ranks)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: int) -> tuple[dict[str, Any], Dealt]:
        place, counts = self._places[at]
        item = self._items[Pick(place, num_supervised_in_step=1, is_filler=not counts)]
        return item, Dealt(self._examples[place], counts)
