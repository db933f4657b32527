"""Measurements of a step -> a bar on a terminal, or a plain line where there is none.

Knows no trainer: it shows what it is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text


@dataclass(frozen=True, kw_only=True)
class StepLine:
    """One optimiser step as it is logged.

    Attributes:
        step: Optimiser steps done.
        epoch: Pass over the data that is under way, from 1.
        loss: Mean over the supervised tokens of the global batch, in nats.
        lr: Learning rate of this step.
        tokens_per_s: Tokens of all ranks, prompt and image included.
        data_wait_share: Share of the time in which ranks waited for batches, in ``[0, 1]``.
        elapsed_s: Since the start, earlier parts of a resumed run included.
        remaining_s: Estimate to the last step.
        peak_memory_gib: Most memory held so far.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    tokens_per_s: float
    data_wait_share: float
    elapsed_s: float
    remaining_s: float
    peak_memory_gib: float

    def brief(self) -> str:
        """The measurements in fewer than 80 columns."""
        return (
            f"loss {self.loss:.3f}  lr {self.lr:.1e}  {_compact(self.tokens_per_s)} tok/s  "
            f"{self.peak_memory_gib:.1f} GiB  {_clock(self.remaining_s)} left"
        )


class _CaptionedBar(Progress):
    """A bar with the measurements on a line of their own, where 80 columns hold them all."""

    caption = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.caption)


class ProgressBar:
    """A bar with a caption; one plain line a logged step where output is no terminal."""

    def __init__(self, *, total_steps: int, num_epochs: int | None, is_terminal: bool) -> None:
        """Prepare, without output.

        Args:
            total_steps: Optimiser steps of the whole run.
            num_epochs: Passes over the data; ``None`` where only steps are limited.
            is_terminal: Whether to draw a bar.
        """
        self._total_steps = total_steps
        self._num_epochs = num_epochs
        self._console = Console(force_terminal=is_terminal, highlight=False)
        self._bar: _CaptionedBar | None = None
        if is_terminal:
            self._bar = _CaptionedBar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task("starting", total=total_steps)

    def start(self, step: int) -> None:
        """Show the bar at the step that the run begins with."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
            self._bar.start()

    def advance(self, step: int, epoch: int) -> None:
        """Move the bar without new measurements; says nothing in plain lines."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._epoch(epoch))

    def show(self, line: StepLine) -> None:
        """Show the measurements of a logged step."""
        if self._bar is not None:
            self._bar.caption = line.brief()
            self._bar.update(self._task, completed=line.step)
            return
        where = f"{self._epoch(line.epoch)}  step {line.step}/{self._total_steps}"
        self._console.print(f"{where}  {line.brief()}", markup=False, soft_wrap=True)

    def announce(self, what: str) -> None:
        """Say in place of the epoch what goes on, e.g. ``validating``."""
        if self._bar is not None:
            self._bar.update(self._task, description=what)

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        console = self._console if self._bar is None else self._bar.console
        console.print(text, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Leave the bar as it is and give the terminal back; harmless when repeated."""
        if self._bar is not None:
            self._bar.stop()

    def _epoch(self, epoch: int) -> str:
        return f"epoch {epoch}" + (f"/{self._num_epochs}" if self._num_epochs else "")


def _compact(number: float) -> str:
    """At most four characters up to a million, e.g. ``812``, ``8.1k``, ``81k``."""
    if number < 1000:
        return f"{number:.0f}"
    return f"{number / 1000:.1f}k" if number < 10_000 else f"{number / 1000:.0f}k"


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
