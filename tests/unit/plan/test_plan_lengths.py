from __future__ import annotations

import pytest
from datasets import Dataset

from aes.data import BatchingSpec
from aes.data.prepared import Prepared
from aes.plan import Lengths
from aes.plan.lengths import summarise

BATCHING = BatchingSpec(order="bucketed", pool_steps=8, layout="padded", max_tokens=None)
SPLIT = Lengths(
    ids=("a", "b", "c", "d"),
    num_tokens=(100, 400, 200, 300),
    num_image_tokens=(60, 240, 60, 0),
    num_supervised=(10, 20, 30, 40),
    num_pages=(1, 2, 1, 0),
)


def test_a_split_in_numbers() -> None:
    summary = summarise(SPLIT, global_batch_size=4, micro_batch_size=2, batching=BATCHING)
    assert summary.num_examples == 4
    assert summary.num_pages == 4
    assert summary.mean_page_tokens == 90
    assert summary.max_page_tokens == 120
    assert summary.mean_tokens == 250
    assert (summary.max_tokens, summary.longest_id) == (400, "b")
    assert (summary.mean_supervised, summary.max_supervised) == (25, 40)
    assert summary.max_prompt_tokens == 380


def test_19_of_20_samples_are_no_longer_than_p95() -> None:
    tokens = tuple(range(1, 101))
    split = Lengths(
        ids=tuple(map(str, tokens)),
        num_tokens=tokens,
        num_image_tokens=(0,) * 100,
        num_supervised=(0,) * 100,
        num_pages=(0,) * 100,
    )
    summary = summarise(split, global_batch_size=1, micro_batch_size=1, batching=BATCHING)
    assert summary.p95_tokens == 95


@pytest.mark.parametrize(("micro_batch_size", "padded"), [(1, 1000), (2, 1200), (4, 1600)])
def test_padding_by_hand(micro_batch_size: int, padded: int) -> None:
    # The sampler puts 100 with 200 and 300 with 400: 2 x 200 + 2 x 400.
    summary = summarise(
        SPLIT, global_batch_size=4, micro_batch_size=micro_batch_size, batching=BATCHING
    )
    assert summary.padding_share == pytest.approx(1 - 1000 / padded)


def test_lengths_come_from_the_columns_of_a_tokenised_split() -> None:
    rows = Dataset.from_dict(
        {
            "id": list(SPLIT.ids),
            "num_tokens": list(SPLIT.num_tokens),
            "num_image_tokens": list(SPLIT.num_image_tokens),
            "num_supervised": list(SPLIT.num_supervised),
            "num_pages": list(SPLIT.num_pages),
        }
    )
    assert Lengths.of(Prepared(rows=rows, overlong={}, shrunk={}, dropped=())) == SPLIT


def test_an_empty_split_is_all_zeros() -> None:
    empty = Lengths(ids=(), num_tokens=(), num_image_tokens=(), num_supervised=(), num_pages=())
    summary = summarise(empty, global_batch_size=4, micro_batch_size=4, batching=BATCHING)
    assert (summary.num_examples, summary.max_tokens, summary.longest_id) == (0, 0, "")


def test_columns_must_be_alike() -> None:
    with pytest.raises(AssertionError):
        Lengths(ids=("a",), num_tokens=(), num_image_tokens=(), num_supervised=(), num_pages=())
