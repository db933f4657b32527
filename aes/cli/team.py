"""One rank leads, the others work on their share of what it hands out.

The first rank alone reads the data, decides, writes and reports; so its mistakes are told once, and
the others need nothing but the task. Knows nothing of what the work is.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from aes.ranks import Ranks

Task = TypeVar("Task")
Result = TypeVar("Result")


class Team(Generic[Task, Result]):
    """All ranks, as the first one sees them within a with statement; it may be alone."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._is_waiting = True
        self._is_kept = False

    def share(
        self, task: Task, work: Callable[[], Result], *, keep: Callable[[list[Result]], None]
    ) -> None:
        """Hands a task to all and does its own share.

        Args:
            work: Does it.
            keep: Takes the results of all, by rank, to where a kill does not reach them.
        """
        self.ranks.broadcast((task, self._is_kept))
        self._is_waiting = self._is_kept = False
        results = self.ranks.gather(work())
        self._is_waiting = True
        keep(results)
        self._is_kept = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Dismiss the others, if they wait for a task; those at work are stopped from outside."""
        # Ctrl-C was meant for all.
        if self._is_waiting and not isinstance(error, KeyboardInterrupt):
            self.ranks.broadcast((None, self._is_kept))


def follow(ranks: Ranks, work: Callable[[Task], Result], *, tidy: Callable[[Task], None]) -> None:
    """Works on this rank's share of each task until there is none.

    Args:
        tidy: Called with a task when the first rank has kept all results.
    """
    before: Any = None
    while True:
        task, is_kept = ranks.broadcast((before, False))
        if is_kept:
            tidy(before)
        if task is None:
            return
        ranks.gather(work(task))
        before = task
