"""Plans an epoch: which examples make up each optimiser step and each micro-batch of it.

Examples of like length are put together, so that little is padded. What a step holds does not
depend on how it is cut into micro-batches and dealt to ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

_STEPS_IN_POOL = 8
"""Lengths are sorted within this many steps' worth of shuffled examples; more would make
the batches alike in every epoch, fewer would pad more."""


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
    """Yields this rank's micro-batches, as many on every rank.

    Args:
        lengths: Tokens of each example.
        num_supervised: Supervised tokens of each example.
        global_batch_size: Examples a step, over all ranks.
        micro_batch_size: Examples a micro-batch; those of the last step may be smaller.
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
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.num_supervised = np.asarray(num_supervised)
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
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
        pool = self.global_batch_size * _STEPS_IN_POOL
        steps: list[np.ndarray] = []
        for at in range(0, len(order), pool):
            chunk = order[at : at + pool]
            chunk = chunk[np.argsort(self.lengths[chunk], kind="stable")]
            # The ragged step takes the shortest examples, not the longest ones.
            ragged = len(chunk) % self.global_batch_size
            cuts = range(ragged, len(chunk), self.global_batch_size)
            full = [chunk[i : i + self.global_batch_size] for i in cuts]
            steps += [full[i] for i in rng.permutation(len(full))]
            if ragged:
                steps.append(chunk[:ragged])
        return steps

    def micro_batches(self, step: np.ndarray) -> Iterator[list[Pick]]:
        """This rank's share of an optimiser step."""
        per_pass = self.micro_batch_size * self.num_ranks
        total = int(self.num_supervised[step].sum())
        for at in range(0, len(step), per_pass):
            # Every n-th: neighbours are of like length, so ranks have alike much to do.
            own = step[at : at + per_pass][self.rank :: self.num_ranks]
            yield [Pick(int(i), total, False) for i in own] or [Pick(int(step[0]), total, True)]

    def __iter__(self) -> Iterator[list[Pick]]:
        resumed_epoch, num_done = self._resumed
        for step in self.steps()[num_done if self.epoch == resumed_epoch else 0 :]:
            yield from self.micro_batches(step)

    def __len__(self) -> int:
        """Micro-batches of a whole epoch, whatever was done of it before."""
        full, ragged = divmod(len(self.lengths), self.global_batch_size)
        per_pass = self.micro_batch_size * self.num_ranks
        return full * -(-self.global_batch_size // per_pass) + -(-ragged // per_pass)
