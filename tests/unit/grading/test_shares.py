"""Work dealt to ranks: each item to one, alike much to all, in order."""

from pathlib import Path

import pytest

from aes.grading.shares import find_parts, own_path, remove_parts, share_of
from aes.ranks import Ranks


def ranks_of(num_ranks: int) -> list[Ranks]:
    return [
        Ranks(rank=rank, local_rank=rank, num_ranks=num_ranks, num_nodes=1, from_outside=True)
        for rank in range(num_ranks)
    ]


@pytest.mark.parametrize("num", [0, 1, 3, 7, 12])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_each_item_is_one_rank_s_and_in_order(num: int, num_ranks: int) -> None:
    items = [(i * 5) % 7 + i / 100 for i in range(num)]
    shares = [share_of(items, ranks, size=int) for ranks in ranks_of(num_ranks)]
    assert sorted(item for share in shares for item in share) == sorted(items)
    for share in shares:
        assert share == [item for item in items if item in share]
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_copies_of_like_length_do_not_fall_to_one_rank() -> None:
    lengths = [100 * copy for _ in range(10) for copy in (4, 3, 2, 1)]
    work = [sum(share_of(lengths, ranks, size=int)) for ranks in ranks_of(4)]
    assert max(work) - min(work) <= 300


def test_parts_are_told_from_files_of_like_names(tmp_path: Path) -> None:
    path = tmp_path / "out[1].jsonl"
    first, second = ranks_of(2)
    assert own_path(path, first) == path
    part = own_path(path, second)
    others = [tmp_path / "out[1].rank1.jsonl", own_path(tmp_path / "out1.jsonl", second)]
    for file in (part, *others):
        file.touch()
    assert find_parts(path) == [part]
    remove_parts(path)
    assert not part.exists() and all(file.exists() for file in others)
