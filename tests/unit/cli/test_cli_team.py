"""The first rank hands out tasks and dismisses the others; they tidy up only what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from aes.cli.team import Team, follow
from aes.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Recorded(Ranks):
    """One of two ranks; what the other one says is written down beforehand."""

    heard: Iterator[Any] = field(default_factory=lambda: iter(()))
    said: list[Any] = field(default_factory=list)

    def broadcast(self, value: Any) -> Any:
        if not self.is_first:
            return next(self.heard)
        self.said.append(value)
        return value

    def gather(self, value: Any) -> list[Any]:
        self.said.append(("gathered", value))
        return [value, "theirs"] if self.is_first else ["theirs", value]


def rank(number: int, *heard: Any) -> Recorded:
    return Recorded(
        rank=number,
        local_rank=number,
        num_ranks=2,
        num_nodes=1,
        from_outside=True,
        heard=iter(heard),
    )


def test_each_task_is_shared_and_the_others_dismissed() -> None:
    ranks, kept = rank(0), list[list[str]]()
    with Team[str, str](ranks) as team:
        for task in ("one", "two"):
            team.share(task, lambda: "ours", keep=kept.append)
    assert kept == [["ours", "theirs"]] * 2
    told = [value for value in ranks.said if value[0] != "gathered"]
    assert told == [("one", False), ("two", True), (None, True)]


def test_alone_it_does_all_the_work() -> None:
    kept = list[list[str]]()
    with Team[str, str](ALONE) as team:
        team.share("one", lambda: "ours", keep=kept.append)
    assert kept == [["ours"]]


def fail(_: Any = None) -> Any:
    raise ValueError("the disk is full")


def test_what_could_not_be_kept_is_not_tidied_away() -> None:
    ranks = rank(0)
    with pytest.raises(ValueError, match="full"), Team[str, str](ranks) as team:
        team.share("one", lambda: "ours", keep=fail)
    assert ranks.said[-1] == (None, False)


def test_a_mistake_before_any_task_dismisses_the_others() -> None:
    ranks = rank(0)
    with pytest.raises(ValueError, match="full"), Team[str, str](ranks):
        fail()
    assert ranks.said == [(None, False)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_ranks_at_work_are_not_spoken_to(error: type[BaseException]) -> None:
    """They wait to be gathered, and another word would be taken for that."""

    def work() -> str:
        raise error

    ranks = rank(0)
    with pytest.raises(error), Team[str, str](ranks) as team:
        team.share("one", work, keep=fail)
    assert ranks.said == [("one", False)]


def test_followers_work_and_tidy_what_is_kept() -> None:
    ranks, tidied = rank(1, ("one", False), ("two", True), (None, False)), list[str]()
    follow(ranks, str.upper, tidy=tidied.append)
    assert ranks.said == [("gathered", "ONE"), ("gathered", "TWO")]
    assert tidied == ["one"]


def test_followers_that_are_dismissed_at_once_do_nothing() -> None:
    follow(rank(1, (None, False)), fail, tidy=fail)
