"""Plans an epoch: which examples make up each optimiser step and each micro-batch of it.

Examples of like length are put together, so that little is padded. What a step holds does not
depend on how it is cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

_STEPS_IN_POOL = 8
"""Lengths are sorted within this many steps' worth of shuffled examples; more would make
the batches alike in every epoch, fewer would pad more."""


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields micro-batches as lists of (index, supervised tokens in the whole step).

    Args:
        lengths: Tokens of each example.
        num_supervised: Supervised tokens of each example.
        global_batch_size: Examples a step.
        micro_batch_size: Examples a micro-batch; the last of a step may be smaller.
        seed: Together with the epoch decides the order.
    """

    def __init__(
        self,
        *,
        lengths: Sequence[int],
        num_supervised: Sequence[int],
        global_batch_size: int,
        micro_batch_size: int,
        seed: int,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.num_supervised = np.asarray(num_supervised)
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.epoch = 0
        # Lightning tells `batch_sampler.sampler` which epoch it is.
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is for."""
        self.epoch = epoch

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

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps():
            total = int(self.num_supervised[step].sum())
            for at in range(0, len(step), self.micro_batch_size):
                yield [(int(i), total) for i in step[at : at + self.micro_batch_size]]

    def __len__(self) -> int:
        full, ragged = divmod(len(self.lengths), self.global_batch_size)
        per_step = -(-self.global_batch_size // self.micro_batch_size)
        return full * per_step + -(-ragged // self.micro_batch_size)
