"""Decoding steps of one token a row, over memory that stays where it is: recorded and replayed.

On a card a step is thousands of small launches, which take longer than their work. As rows leave,
the step of fewer rows is recorded and takes over. Knows neither words nor cards; who records is
given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aes.kernels.cache import RowCache
from aes.kernels.cached import cached_states
from aes.kernels.forward import logits
from aes.kernels.words import FromLogits

Run = Callable[[], None]
Recorder = Callable[[Run], Run]
"""Turns work over fixed memory into its replay; may run it ``NUM_WARMUPS`` times before."""

NUM_WARMUPS = 3
"""Most runs before recording, in which libraries choose kernels and take their workspaces."""

LEAST_STEPS = 8
"""Recording takes as long as a few steps."""

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of rows that a step is recorded for; more rows are recorded as they are."""

_log = logging.getLogger(__name__)


class RecordedSteps:
    """Decoding steps of one model, for one batch after the other.

    Args:
        model: Transformers or PEFT model, whole on this rank.
        record: Makes the recording.
    """

    def __init__(self, model: Any, record: Recorder) -> None:
        self._model, self._record = model, record
        self._keys: Tensor | None = None  # of the first layer, which tell the memory from another
        self._replays: dict[int, Run] = {}
        self._found: dict[int, FromLogits] = {}
        self._may_record = True

    def begin(self, cache: RowCache, mask: Tensor, next_position: Tensor, num_steps: int) -> bool:
        """Get ready for at most so many steps.

        Args:
            mask: Columns that each row may look at, bool ``[B, columns]``.
            next_position: Of each row's next token, int64 ``[B]``.

        Returns:
            Whether steps are recorded; if not, nothing has changed.
        """
        if num_steps < LEAST_STEPS or not self._may_record:
            return False
        # Each run goes a column on, and the last step may be the first of its size.
        cache.reserve(num_steps + NUM_WARMUPS)
        keys, _ = cache.memory[0]
        if keys is not self._keys:
            self._allocate(cache, mask.device)
            self._keys = keys
        self._cache = cache
        num_rows, num_columns = mask.shape
        self._mask.zero_()
        self._mask[:, 0, 0, 0] = True  # of a row that nobody reads; nothing would not be a number
        self._mask[:num_rows, 0, 0, :num_columns] = mask
        self._positions[:num_rows, 0] = next_position
        self._column.fill_(cache.length)
        cache.column = self._column
        if self._replay_of(num_rows) is None:
            cache.column = None
            return False
        return True

    def advance(self, tokens: Sequence[int]) -> FromLogits:
        """Append a token to each row; the words that may follow."""
        self._tokens[: len(tokens), 0] = torch.tensor(tokens, device=self._tokens.device)
        replay = self._replay_of(len(tokens))
        assert replay is not None, "begin recorded the first and greatest"
        size = self._size_of(len(tokens))
        replay()
        self._cache.length += 1
        found = self._found[size]
        assert found.found is not None
        return FromLogits(found.logits[: len(tokens)], found.found[: len(tokens)])

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, in this order."""
        for buffer in (self._mask, self._positions):
            buffer[: len(rows)] = buffer[rows]

    def forget(self) -> None:
        """Let go of the memory that steps were recorded over, and of the recordings."""
        self._keys = None
        self._replays, self._found = {}, {}

    def _allocate(self, cache: RowCache, device: torch.device) -> None:
        most, num_columns = len(cache.memory[0][0]), cache.num_columns
        self._tokens = torch.zeros(most, 1, dtype=torch.int64, device=device)
        self._positions = torch.zeros_like(self._tokens)
        self._column = torch.zeros(1, dtype=torch.int64, device=device)
        self._mask = torch.zeros(most, 1, 1, num_columns, dtype=torch.bool, device=device)
        self._replays, self._found = {}, {}

    def _size_of(self, num_rows: int) -> int:
        """The recorded number of rows that so many run under."""
        most = len(self._tokens)
        wanted = min((size for size in SIZES if size >= num_rows), default=most)
        if self._may_record:
            return min(wanted, most)
        return min(size for size in self._replays if size >= num_rows)

    def _replay_of(self, num_rows: int) -> Run | None:
        """The step for so many rows, recorded if it was not yet."""
        size = self._size_of(num_rows)
        if size not in self._replays:
            before = [t.clone() for t in (self._mask, self._positions, self._column)]
            try:
                self._replays[size] = self._record(lambda: self._run(size))
            except RuntimeError as exc:
                self._may_record = False
                _log.warning("a decoding step cannot be recorded (%s); decoding goes on", exc)
            finally:
                pairs = zip((self._mask, self._positions, self._column), before, strict=True)
                for buffer, was in pairs:
                    buffer.copy_(was)
        if size in self._replays:
            return self._replays[size]
        larger = [known for known in self._replays if known >= num_rows]
        return self._replays[min(larger)] if larger else None

    def _run(self, size: int) -> None:
        """One step of the first ``size`` rows: what is recorded."""
        mask, positions = self._mask[:size], self._positions[:size]
        mask.index_fill_(3, self._column, True)
        kind = mask.device.type
        # What autocast keeps of casts would be gone at the next replay.
        with torch.autocast(
            kind,
            dtype=torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            cache_enabled=False,
        ):
            states = cached_states(
                self._model,
                {
                    "input_ids": self._tokens[:size],
                    "attention_mask": mask,
                    "position_ids": positions.expand(3, -1, -1),
                },
                self._cache,
            )
            found = logits(self._model, states[:, 0])
        self._found[size] = FromLogits(found, found.argmax(dim=1))
        positions += 1
        self._column += 1
