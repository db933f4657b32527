"""Batches of like lengths out of any stream, and answers in the stream's own order."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aes.inference.batches import batches_of_like, in_order

Item = tuple[str, int]


def _batches(
    items: object, size: int, ahead: int, *, max_weight: int = 999_999
) -> Iterator[list[tuple[int, Item]]]:
    """An item weighs as much as it is long."""
    return batches_of_like(
        items,  # type: ignore[arg-type]
        batch_size=size,
        num_ahead=ahead,
        kind=lambda item: item[0],
        length=lambda item: item[1],
        weight=lambda item: item[1],
        max_weight=max_weight,
    )


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=40),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_nothing_is_lost_mixed_or_out_of_order(
    items: list[Item], size: int, num_batches: int
) -> None:
    batches = list(_batches(items, size, size * num_batches))
    assert list(in_order(batches)) == items
    waiting = set(range(len(items)))
    for batch in batches:
        assert 0 < len(batch) <= size
        assert len({kind for _, (kind, _) in batch}) == 1
        numbers = [number for number, _ in batch]
        assert numbers == sorted(numbers)
        assert min(waiting) in numbers, "the one that waits longest must come next"
        waiting -= set(numbers)


def test_like_lengths_come_together() -> None:
    items = [("a", length) for length in (9, 1, 8, 2, 9, 1, 8, 2)]
    lengths = [[item[1] for _, item in batch] for batch in _batches(items, 4, 8)]
    assert lengths == [[9, 8, 9, 8], [1, 2, 1, 2]]


def test_of_one_kind_only_the_last_batch_is_short() -> None:
    items = [("a", (i * 7) % 11) for i in range(23)]
    assert [len(batch) for batch in _batches(items, 4, 12)] == [4] * 5 + [3]


def test_the_stream_is_read_no_further_than_told() -> None:
    taken = []

    def source() -> Iterator[Item]:
        for i in range(100):
            taken.append(i)
            yield "a", i

    batches = _batches(source(), 2, 6)
    next(batches)
    assert len(taken) == 6
    next(batches)
    assert len(taken) == 8


@pytest.mark.parametrize(("weight", "most"), [(1, 10), (6, 5), (30, 2), (500, 2)])
def test_heavy_items_are_read_no_further_than_they_may_weigh(weight: int, most: int) -> None:
    """But a batch of them in any case, however heavy."""
    taken: list[Item] = []

    def source() -> Iterator[Item]:
        for _ in range(60):
            taken.append(("a", weight))
            yield taken[-1]

    num_given = 0
    for batch in _batches(source(), 2, 10, max_weight=30):
        assert len(batch) == 2
        assert len(taken) - num_given == min(most, 60 - num_given)
        num_given += len(batch)
    assert num_given == 60


def test_each_is_given_as_soon_as_those_before_it() -> None:
    asked = []

    def batches() -> Iterator[list[tuple[int, str]]]:
        for batch in ([(0, "a"), (3, "d")], [(1, "b"), (4, "e")], [(2, "c")]):
            asked.append(batch)
            yield batch

    seen = [(item, len(asked)) for item in in_order(batches())]
    assert seen == [("a", 1), ("b", 2), ("c", 3), ("d", 3), ("e", 3)]


def test_an_error_of_the_stream_comes_through() -> None:
    def source() -> Iterator[Item]:
        yield "a", 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(_batches(source(), 2, 4))
