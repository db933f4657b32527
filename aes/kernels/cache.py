"""Keys and values of a batch in memory of their own, written in place.

transformers' ``DynamicCache`` copies everything at each token. Stands in for it: the model asks for
nothing but ``update`` and ``get_seq_length``. Knows no masks: whoever reads says what counts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

COLUMNS = 128
"""Memory is taken for multiples of so many tokens, so that batches of like lengths can share it."""


class RowCache:
    """Keys and values of one batch at a time; the memory serves the next one too.

    Attributes:
        memory: Keys and values by layer, ``[rows, heads, columns, size]``; what lies behind
            ``length`` and beyond the batch's rows is of no meaning, but finite.
        length: Columns that are written.
        column: Where the next token of each row is written, int64 ``[1]`` on the device, if a pass
            is to be recorded: then it is given all columns to read. Else the next free one.
    """

    def __init__(self) -> None:
        self.memory: list[tuple[Tensor, Tensor]] = []
        self.length = 0
        self.column: Tensor | None = None
        self._room = (0, 0)
        self._start = 0

    @property
    def num_columns(self) -> int:
        """Columns that there is memory for."""
        return self.memory[0][0].shape[2] if self.memory else 0

    def restart(self, num_rows: int, num_columns: int) -> None:
        """Forget the batch; the next one has so many rows, and about so many columns."""
        self.length, self.column = 0, None
        self._room = num_rows, num_columns
        if self.memory and (
            len(self.memory[0][0]) < num_rows or self.num_columns < _rounded(num_columns)
        ):
            self.memory = []

    def reserve(self, num_columns: int) -> None:
        """Make room for so many more columns than are written."""
        wanted = _rounded(self.length + num_columns)
        if wanted > self.num_columns:
            for layer in range(len(self.memory)):  # one by one: what was must not stand beside
                keys, values = (_grown(old, wanted, self.length) for old in self.memory[layer])
                self.memory[layer] = keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Columns that are written; a name of transformers'."""
        return self.length

    def get_query_offset(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """The same, as transformers asks for it when it makes a mask."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:  # noqa: ARG002
        """Columns that the next pass reads, and where they begin."""
        return self.length + query_length, 0

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new ones, and give all that are to be read.

        Args:
            keys: ``[B, heads, T, size]``; ``values`` alike.
        """
        if self.column is not None:
            return self._write_at_column(keys, values, layer_idx)
        num_new = keys.shape[2]
        if layer_idx == 0:
            if self.memory:
                self.reserve(num_new)
            self._start, self.length = self.length, self.length + num_new
        if layer_idx == len(self.memory):
            self.memory.append((self._take(keys), self._take(values)))
        written = []
        for memory, new in zip(self.memory[layer_idx], (keys, values), strict=True):
            memory[: len(new), :, self._start : self.length] = new
            written.append(memory[: len(new), :, : self.length])
        return (keys, values) if self._start == 0 else (written[0], written[1])

    def crop(self, num_columns: int) -> None:
        """Forget the last columns; a negative number, as transformers has it."""
        self.length += num_columns

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows, numbered anew; only those that change places are copied."""
        moved = [(new, old) for new, old in enumerate(indices.tolist()) if new != old]
        if not moved:
            return
        new_places, old_places = (list(places) for places in zip(*moved, strict=True))
        for pair in self.memory:
            for memory in pair:
                memory[new_places, :, : self.length] = memory[old_places, :, : self.length]

    def _write_at_column(
        self, keys: Tensor, values: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        assert self.column is not None
        given = []
        for memory, new in zip(self.memory[layer_idx], (keys, values), strict=True):
            rows = memory[: len(new)]
            rows.index_copy_(2, self.column, new)
            given.append(rows)
        return given[0], given[1]

    def _take(self, like: Tensor) -> Tensor:
        num_rows, num_columns = self._room
        shape = (max(num_rows, len(like)), like.shape[1])
        columns = _rounded(max(num_columns, self.length))
        # Zeros: what is masked is multiplied by 0, and leftovers might not be finite.
        return like.new_zeros(*shape, columns, like.shape[3])


def _rounded(num_columns: int) -> int:
    return -(-num_columns // COLUMNS) * COLUMNS


def _grown(old: Tensor, num_columns: int, length: int) -> Tensor:
    new = old.new_zeros(*old.shape[:2], num_columns, old.shape[3])
    new[:, :, :length] = old[:, :, :length]
    return new
