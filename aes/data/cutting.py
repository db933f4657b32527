"""The samples of one optimiser step -> micro-batches, a part for each rank.

Every rank gets as many micro-batches, and what they compute side by side is of like size, since
they wait for each other. Knows lengths only.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

Cell = list[int]
"""Places within the step of the samples that one rank computes in one pass."""


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """Cuts steps.

    Attributes:
        micro_batch_size: Most samples of a cell.
        max_tokens: Most tokens of a cell, padding included; ``None``: no such limit.
        is_packed: Whether samples stand end to end, so that nothing is padded.
        num_ranks: Ranks that compute side by side.
    """

    micro_batch_size: int
    max_tokens: int | None
    is_packed: bool
    num_ranks: int

    def num_micro_batches(self, lengths: Sequence[int]) -> int:
        """Passes that a step of these samples takes; never fewer where samples are longer."""
        if self.max_tokens is None:
            cells = -(-len(lengths) // self.micro_batch_size)
        else:
            cells = len(self._chunks(sorted(lengths, reverse=True), self.max_tokens))
        return -(-cells // self.num_ranks)

    def cut(self, lengths: Sequence[int]) -> list[list[Cell]]:
        """Micro-batches, each with a cell for every rank; the largest first, some maybe empty.

        A sample longer than ``max_tokens`` is alone in its cell.
        """
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        ordered = [lengths[place] for place in order]
        most = self.num_micro_batches(lengths) * self.num_ranks
        cells = (self._spread if self.is_packed else self._group)(ordered, most)
        cells.sort(key=lambda cell: -self.num_tokens([ordered[i] for i in cell]))
        cells += [[] for _ in range(most - len(cells))]
        named = [[order[i] for i in cell] for cell in cells]
        return [named[at : at + self.num_ranks] for at in range(0, most, self.num_ranks)]

    def num_tokens(self, lengths: Sequence[int]) -> int:
        """Tokens of a cell, padding included."""
        if self.is_packed:
            return sum(lengths)
        return max(lengths, default=0) * len(lengths)

    def _chunks(self, ordered: Sequence[int], limit: int) -> list[Cell]:
        """Neighbours together, from the longest on, as many as the limit allows."""
        cells: list[Cell] = []
        room = 0
        for place, length in enumerate(ordered):
            # In a padded cell every sample costs as much as its first, the longest.
            cost = length if self.is_packed or not cells else ordered[cells[-1][0]]
            if not cells or len(cells[-1]) == self.micro_batch_size or cost > room:
                cells.append([])
                cost, room = length, limit
            cells[-1].append(place)
            room -= cost
        return cells

    def _group(self, ordered: Sequence[int], most: int) -> list[Cell]:
        """Neighbours together, so that little is padded, with the largest cell least."""
        if len(ordered) == most * self.micro_batch_size:  # all are full: there is one way only
            size = self.micro_batch_size
            return [list(range(at, at + size)) for at in range(0, len(ordered), size)]
        sizes = range(1, self.micro_batch_size + 1)
        limits = sorted({length * size for length in ordered for size in sizes})
        fits = bisect_left(
            limits, True, key=lambda limit: len(self._chunks(ordered, limit)) <= most
        )
        return self._chunks(ordered, limits[fits])

    def _spread(self, ordered: Sequence[int], most: int) -> list[Cell]:
        """Each sample, from the longest on, to the cell with the fewest tokens.

        Source: Graham (1969), "Bounds on multiprocessing timing anomalies", longest first.
        """
        cells: list[Cell] = [[] for _ in range(most)]
        open_cells = [(0, number) for number in range(most)]
        for place, length in enumerate(ordered):
            tokens, number = heapq.heappop(open_cells)
            cell = cells[number]
            if cell and self.max_tokens is not None and tokens + length > self.max_tokens:
                return self._chunks(ordered, self.max_tokens)  # which is known to fit
            cell.append(place)
            if len(cell) < self.micro_batch_size:
                heapq.heappush(open_cells, (tokens + length, number))
        return [cell for cell in cells if cell]
