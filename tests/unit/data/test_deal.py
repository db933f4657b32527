"""Validation examples over ranks: each counts once, and every rank has as many."""

import pytest

from aes.data.dealing import Deal
from aes.records import Example


@pytest.mark.parametrize("num", [1, 2, 5, 6])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_each_example_counts_on_one_rank(num: int, num_ranks: int) -> None:
    examples = [Example(id=str(i), messages=(), answer=(), asks_feedback=False) for i in range(num)]
    parts = [Deal(examples, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert len({len(part) for part in parts}) == 1
    counted = [one.example.id for part in parts for one in part if one.counts]
    assert sorted(counted) == sorted(example.id for example in examples)
