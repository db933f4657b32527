"""A stream in any order of lengths -> batches of like lengths -> a stream in the first order.

Knows nothing of what the items are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
Numbered = tuple[int, T]


def batches_of_like(
    items: Iterable[T],
    *,
    batch_size: int,
    num_ahead: int,
    kind: Callable[[T], Hashable],
    length: Callable[[T], int],
    weight: Callable[[T], int],
    max_weight: int,
) -> Iterator[list[Numbered[T]]]:
    """Batches of one kind each: the item that waits longest, and those nearest to it in length.

    Args:
        items: Read no further than ``num_ahead`` beyond what was batched.
        batch_size: Most items of a batch; fewer only where no more of the kind are at hand.
        num_ahead: Most items that wait.
        weight: Of an item that waits, e.g. of its memory.
        max_weight: Items that weigh as much are enough; but as many as a batch takes always wait.

    Yields:
        Items with their places in the stream, from 0, in the stream's order.
    """
    numbered = enumerate(items)
    waiting: list[Numbered[T]] = []
    while True:
        # One at a time: what an item weighs is known only when it is there.
        while len(waiting) < num_ahead and (
            len(waiting) < batch_size or sum(weight(item) for _, item in waiting) < max_weight
        ):
            following = next(numbered, None)
            if following is None:
                break
            waiting.append(following)
        if not waiting:
            return
        _, first = waiting[0]
        alike = [item for item in waiting if kind(item[1]) == kind(first)]
        # Sorting is stable, so the first one leads those of its length.
        alike.sort(key=lambda item: abs(length(item[1]) - length(first)))
        batch = sorted(alike[:batch_size], key=lambda item: item[0])
        taken = {number for number, _ in batch}
        waiting = [item for item in waiting if item[0] not in taken]
        yield batch


def in_order(batches: Iterable[Sequence[Numbered[T]]]) -> Iterator[T]:
    """Each item as soon as all that stood before it have been given."""
    held: dict[int, T] = {}
    following = 0
    for batch in batches:
        held.update(batch)
        while following in held:
            yield held.pop(following)
            following += 1
    assert not held, "an item is missing"
