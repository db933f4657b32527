"""The loader of training batches: what it waits for, and what it passes over."""

import time
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import Dataset

from aes.data.datamodule import ResumableLoader, _collate

SLOW_S = 0.02


class Slow(Dataset[int]):
    """Items that take time."""

    def __getitem__(self, index: int) -> int:
        time.sleep(SLOW_S)
        return index

    def __len__(self) -> int:
        return 6


class Batches:
    """Of unlike sizes."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([0, 1], [], [2], [3, 4, 5])

    def __len__(self) -> int:
        return 4


def _loader(num_workers: int) -> ResumableLoader:
    return ResumableLoader(
        Slow(),
        batch_sampler=Batches(),
        collate_fn=lambda items: items or None,
        num_workers=num_workers,
    )


def test_it_counts_the_time_that_it_makes_others_wait() -> None:
    loader = _loader(0)
    started_s = time.perf_counter()
    for _ in loader:
        time.sleep(SLOW_S)
    assert 6 * SLOW_S <= loader.waited_s <= time.perf_counter() - started_s - 4 * SLOW_S


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_empty_micro_batch_is_nothing(num_workers: int) -> None:
    assert list(_loader(num_workers)) == [[0, 1], None, [2], [3, 4, 5]]


def test_no_items_are_no_batch() -> None:
    def never(items: object) -> dict[str, torch.Tensor]:
        raise AssertionError

    assert _collate(never, []) is None  # type: ignore[arg-type]
