"""How far answering has come -> a bar on standard error, where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _SpeedColumn(ProgressColumn):
    """Essays a second, or seconds an essay."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f} essays/s" if speed >= 1 else f"{1 / speed:.1f} s an essay")


@contextmanager
def progress_bar(label: str | None, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar that moves one on at each call of what this gives; none without a label.

    Args:
        total: Where the bar ends; ``None``: nobody knows.
    """
    console = Console(stderr=True)
    if label is None or not console.is_terminal:
        yield lambda: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)
