"""Where features of pages are kept between epochs, and what a loader's process needs to know of it.

A page whose features are kept is not drawn again. The unit is a sample: all its pages or none. This
module has the store in host memory; that on disk is beside it. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from aes.kernels.vision import PageFeatures
from aes.records import Page

_SLAB_BYTES = 256 * 2**20
"""Pinned memory is taken in pieces of this size: each takes a call that stops the device, and the
allocator would round a page's up to a power of two."""


class SamplePages(NamedTuple):
    """What a loader's process found out about the pages of one sample.

    Attributes:
        row: Of the sample.
        grids: Height and width of each page in patches of 16 px.
        key: Names what decides the pages' pixels; empty where the store does not ask.
        is_drawn: Their patches are in the batch.
        features: Of all its pages, where the process read them.
        is_damaged: What was kept of them cannot be used.
    """

    row: int
    grids: tuple[tuple[int, int], ...]
    key: str
    is_drawn: bool
    features: PageFeatures | None
    is_damaged: bool = False


class FeatureReader(Protocol):
    """What a loader's process holds of a store."""

    def look_up(
        self, row: int, pages: Sequence[Page], grids: Sequence[tuple[int, int]]
    ) -> SamplePages:
        """Whether the pages of a sample have to be drawn."""
        ...


class FeatureStore(Protocol):
    """Keeps features of samples until it is full; nothing is thrown out.

    Every sample comes once an epoch, so whichever are kept, as many are found again. All this
    happens in the process that trains.
    """

    @property
    def reader(self) -> FeatureReader:
        """For the loader's processes."""
        ...

    def find(self, sample: SamplePages) -> PageFeatures | None:
        """What is kept of a sample, on any device."""
        ...

    def keep(self, sample: SamplePages, features: PageFeatures) -> None:
        """Keep what was computed, if there is room."""
        ...

    def describe(self) -> str:
        """How much is kept and where, for people."""
        ...

    def close(self) -> None:
        """Finish what is under way."""
        ...


class MemoryReader:
    """Knows which samples a ``MemoryStore`` has.

    Args:
        num_samples: Samples that there are.
    """

    def __init__(self, num_samples: int) -> None:
        # Shared with the loader's processes, which are there before anything is kept.
        self.is_kept = torch.zeros(num_samples, dtype=torch.bool)
        self.is_kept.share_memory_()  # type: ignore[no-untyped-call]

    def look_up(
        self, row: int, pages: Sequence[Page], grids: Sequence[tuple[int, int]]
    ) -> SamplePages:
        """See ``FeatureReader``."""
        del pages  # a row's are the same in every epoch
        is_drawn = not bool(self.is_kept[row])
        return SamplePages(row, tuple(grids), "", is_drawn, None)


class MemoryStore:
    """Features in host memory, of this process and this run alone.

    Args:
        num_samples: Samples that there are.
        max_bytes: Bound of what is kept.
    """

    def __init__(self, num_samples: int, *, max_bytes: int) -> None:
        self.reader = MemoryReader(num_samples)
        self._kept: dict[int, PageFeatures] = {}
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._without_room: set[int] = set()
        self._pinned = _PinnedMemory()

    def find(self, sample: SamplePages) -> PageFeatures | None:
        """See ``FeatureStore``."""
        return self._kept.get(sample.row)

    def keep(self, sample: SamplePages, features: PageFeatures) -> None:
        """See ``FeatureStore``."""
        if sample.row in self._kept:
            return
        if self._num_bytes + features.num_bytes > self._max_bytes:
            self._without_room.add(sample.row)
            return
        self._num_bytes += features.num_bytes
        pooled, *deepstack = (self._pinned.hold(tensor) for tensor in features.tensors)
        self._kept[sample.row] = PageFeatures(pooled, tuple(deepstack))
        self.reader.is_kept[sample.row] = True  # last: from now on nobody draws it

    def describe(self) -> str:
        """See ``FeatureStore``."""
        gib = self._num_bytes / 2**30
        kept = f"features of {len(self._kept)} samples in host memory, {gib:.2f} GiB"
        return kept + describe_room(len(self._without_room))

    def close(self) -> None:
        """Nothing is under way."""


def describe_room(num_without: int) -> str:
    """What to add where so many samples were not kept for want of room."""
    if not num_without:
        return ""
    return f", and no room for those of {num_without} (vision_cache.max_gib)"


class _PinnedMemory:
    """Host memory that a GPU reads and writes without waiting; for the CPU any will do."""

    def __init__(self) -> None:
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def hold(self, tensor: Tensor) -> Tensor:
        """A copy that stays; on the CPU the tensor itself."""
        if tensor.device.type == "cpu":
            return tensor
        place = self._take(tensor.nbytes).view(tensor.dtype).view(tensor.shape)
        # Read again by the same stream alone, so behind this copy.
        return place.copy_(tensor, non_blocking=True)

    def _take(self, num_bytes: int) -> Tensor:
        padded = -(-num_bytes // 64) * 64  # tensors of every dtype start at such places
        if self._used + padded > len(self._slab):
            size = max(_SLAB_BYTES, padded)
            self._slab, self._used = torch.empty(size, dtype=torch.uint8, pin_memory=True), 0
        start, self._used = self._used, self._used + padded
        return self._slab[start : start + num_bytes]
