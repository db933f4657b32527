"""Cutting a step: every sample once, within limits, with little padding and ranks alike."""

from itertools import chain
from typing import Any

import numpy as np
import pytest

from aes.data.cutting import Cutter

LENGTHS = [900, 310, 870, 300, 120, 500, 480, 110]


def _cutter(**changes: Any) -> Cutter:
    plain = {"micro_batch_size": 2, "max_tokens": None, "is_packed": False, "num_ranks": 1}
    return Cutter(**plain | changes)


def _lengths(cutter: Cutter, lengths: list[int]) -> list[list[list[int]]]:
    return [[[lengths[i] for i in cell] for cell in batch] for batch in cutter.cut(lengths)]


def test_padded_cells_hold_neighbours_and_the_largest_comes_first() -> None:
    assert _lengths(_cutter(), LENGTHS) == [[[900, 870]], [[500, 480]], [[310, 300]], [[120, 110]]]


def test_ranks_compute_cells_of_like_size_side_by_side() -> None:
    assert _lengths(_cutter(num_ranks=2), LENGTHS) == [
        [[900, 870], [500, 480]],
        [[310, 300], [120, 110]],
    ]


def test_packed_cells_are_balanced() -> None:
    (cells,) = _lengths(_cutter(is_packed=True, num_ranks=4), LENGTHS)
    sums = [sum(cell) for cell in cells]
    assert all(len(cell) == 2 for cell in cells)
    assert max(sums) - min(sums) < 0.5 * (900 + 870 - 120 - 110)


def test_a_padded_limit_counts_the_padding() -> None:
    cut = _lengths(_cutter(micro_batch_size=8, max_tokens=1000), LENGTHS)
    assert all(max(cell) * len(cell) <= 1000 for cell in chain(*cut))
    assert len(cut) == 5  # 900; 870; 500 480; 310 300; 120 110, or fewer and longer


def test_a_packed_limit_does_not() -> None:
    cut = _lengths(_cutter(micro_batch_size=8, max_tokens=1000, is_packed=True), LENGTHS)
    assert all(sum(cell) <= 1000 for cell in chain(*cut))
    assert len(cut) == 4


def test_a_sample_over_the_limit_is_alone() -> None:
    cut = _lengths(_cutter(micro_batch_size=4, max_tokens=700), LENGTHS)
    assert [900] in chain(*cut) and [870] in chain(*cut)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("max_tokens", [None, 950, 2000])
def test_every_sample_once_within_limits(
    is_packed: bool, num_ranks: int, max_tokens: int | None
) -> None:
    rng = np.random.default_rng(0)
    cutter = _cutter(
        micro_batch_size=3, is_packed=is_packed, num_ranks=num_ranks, max_tokens=max_tokens
    )
    for num in (1, 2, 5, 17, 64):
        lengths = rng.integers(100, 940, num).tolist()
        cut = cutter.cut(lengths)
        assert sorted(chain(*chain(*cut))) == list(range(num))
        assert len(cut) == cutter.num_micro_batches(lengths)
        assert all(len(batch) == num_ranks for batch in cut)
        # Of a micro-batch only the last one can be without a cell for some rank.
        assert all(cell for batch in cut[:-1] for cell in batch)
        for cell in chain(*cut):
            assert len(cell) <= 3
            tokens = cutter.num_tokens([lengths[i] for i in cell])
            assert max_tokens is None or tokens <= max_tokens


@pytest.mark.parametrize("is_packed", [False, True])
def test_longer_samples_never_take_fewer_micro_batches(is_packed: bool) -> None:
    """The sampler keeps as many places a step as the longest samples take."""
    rng = np.random.default_rng(1)
    cutter = _cutter(micro_batch_size=4, is_packed=is_packed, max_tokens=1500)
    for _ in range(200):
        lengths = rng.integers(100, 1000, 8)
        longer = lengths + rng.integers(0, 400, 8)
        few, many = map(cutter.num_micro_batches, (lengths.tolist(), longer.tolist()))
        assert few <= many
