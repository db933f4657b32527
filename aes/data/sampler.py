"""Plans an epoch: which examples make up each optimiser step and each micro-batch of it.

Examples of like length are put together, so that little is padded. What a step holds does not
depend on how it is cut into micro-batches and dealt to ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch.utils.data import Sampler

from aes.data.cutting import Cutter
from aes.data.spec import BatchingSpec


@dataclass(frozen=True, slots=True)
class Pick:
    """One place of a micro-batch.

    Attributes:
        index: Of the example.
        num_supervised_in_step: Supervised tokens of the whole global batch.
        is_filler: It only keeps a rank in step that has no example left; nothing of it counts.
    """

    index: int
    num_supervised_in_step: int
    is_filler: bool


class StepSampler(Sampler[list[Pick]]):
    """Yields this rank's micro-batches, as many on every rank and in every whole step.

    Where a limit of tokens cuts long steps into more micro-batches than short ones, the short ones
    begin with empty ones, which cost nothing: Lightning counts to a fixed number.

    Args:
        lengths: Tokens of each example.
        num_supervised: Supervised tokens of each example.
        global_batch_size: Examples a step, over all ranks.
        micro_batch_size: Most examples of a micro-batch.
        batching: How steps are made up and cut; its layout is ``padded`` or ``packed``.
        seed: Together with the epoch decides the order.
        rank: This one of ``num_ranks``.
    """

    def __init__(
        self,
        *,
        lengths: Sequence[int],
        num_supervised: Sequence[int],
        global_batch_size: int,
        micro_batch_size: int,
        batching: BatchingSpec,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        assert batching.layout != "auto", "the layout is decided before"
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.num_supervised = np.asarray(num_supervised, dtype=np.int64)
        self.global_batch_size = global_batch_size
        self.batching = batching
        self.cutter = Cutter(
            micro_batch_size=micro_batch_size,
            max_tokens=batching.max_tokens,
            is_packed=batching.layout == "packed",
            num_ranks=num_ranks,
        )
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.epoch = 0
        self._resumed = (0, 0)
        # Lightning tells `batch_sampler.sampler` which epoch it is.
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is for."""
        self.epoch = epoch

    def resume_at(self, epoch: int, num_steps: int) -> None:
        """Go on within ``epoch``, of which so many optimiser steps are done; others are whole.

        Their examples are left out without being drawn.
        """
        self.epoch, self._resumed = epoch, (epoch, num_steps)

    def steps(self) -> list[np.ndarray]:
        """Indices of each optimiser step of this epoch; only the last may be smaller."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        size = self.global_batch_size
        if self.batching.order == "shuffled":
            return [order[at : at + size] for at in range(0, len(order), size)]
        pool = size * self.batching.pool_steps if self.batching.pool_steps else max(1, len(order))
        steps: list[np.ndarray] = []
        for at in range(0, len(order), pool):
            chunk = order[at : at + pool]
            chunk = chunk[np.argsort(self.lengths[chunk], kind="stable")]
            # The ragged step takes the shortest examples, not the longest ones.
            ragged = len(chunk) % size
            full = [chunk[i : i + size] for i in range(ragged, len(chunk), size)]
            steps += [full[i] for i in rng.permutation(len(full))]
            if ragged:
                steps.append(chunk[:ragged])
        return steps

    @cached_property
    def accumulation(self) -> int:
        """Micro-batches of a whole step, empty ones included; as many as the longest would take."""
        return self._num_places(self.global_batch_size)

    def _num_places(self, num_examples: int) -> int:
        """Micro-batches of a step of so many examples: enough for the longest there are."""
        longest = np.sort(self.lengths)[::-1][:num_examples]
        needed = self.cutter.num_micro_batches(longest.tolist())
        return max(needed, -(-num_examples // (self.cutter.micro_batch_size * self.num_ranks)))

    @cached_property
    def _ragged_places(self) -> int:
        ragged = len(self.lengths) % self.global_batch_size
        return self._num_places(ragged) if ragged else 0

    def cells(self, step: np.ndarray) -> list[list[np.ndarray]]:
        """An optimiser step as all ranks compute it: micro-batches, with a cell for each rank."""
        cut = self.cutter.cut(self.lengths[step].tolist())
        return [[step[cell] for cell in micro_batch] for micro_batch in cut]

    def micro_batches(self, step: np.ndarray) -> list[list[Pick]]:
        """This rank's share of an optimiser step; those that are empty come first."""
        total = int(self.num_supervised[step].sum())
        shortest = int(step[np.argmin(self.lengths[step])])
        own = [
            [Pick(int(i), total, False) for i in cells[self.rank]] or [Pick(shortest, total, True)]
            for cells in self.cells(step)
        ]
        is_whole = len(step) == self.global_batch_size
        num_places = self.accumulation if is_whole else self._ragged_places
        return [[] for _ in range(num_places - len(own))] + own

    def __iter__(self) -> Iterator[list[Pick]]:
        resumed_epoch, num_done = self._resumed
        for step in self.steps()[num_done if self.epoch == resumed_epoch else 0 :]:
            yield from self.micro_batches(step)

    def __len__(self) -> int:
        """Micro-batches of a whole epoch, whatever was done of it before."""
        return len(self.lengths) // self.global_batch_size * self.accumulation + self._ragged_places
