"""A running Trainer -> a measured line every few optimiser steps, on screen, on disk, in loggers.

Counts optimiser steps, not batches, so that accumulation changes nothing. Knows no model: loss
and tokens come from the module's ``step_report``. Lightning's own bar must be off
(``enable_progress_bar=False``).
"""

# ruff: noqa: ARG002 (a hook takes what Lightning passes, needed or not)

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from aes.report.progress_bar import ProgressBar, StepLine
from aes.training.metrics_log import MetricsLog
from aes.training.stopping import StopSignals

_MOST_WAITING = 0.1
"""Share of the time above which waiting for batches is worth a line."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What a module tells about one optimiser step, the same on every rank.

    Attributes:
        loss: Mean over the supervised tokens of the global batch, in nats.
        num_tokens: All tokens of the global batch, prompt and image included, padding not.
        stop_signal: Number of a signal that asks one of the ranks to stop; 0: none does.
        waited_s: Time that the rank that waited longest waited for its batches.
        num_pages: Pages of the global batch, where features of pages are kept.
        num_pages_kept: Those of them whose features were there already.
    """

    loss: float
    num_tokens: int
    stop_signal: int = 0
    waited_s: float = 0.0
    num_pages: int = 0
    num_pages_kept: int = 0


class ReportsSteps(Protocol):
    """A module that ``ProgressReport`` can measure."""

    def step_report(self, *, stop_signal: int, waited_s: float) -> StepReport:
        """The optimiser step about to be done; called once for each, on every rank.

        Args:
            stop_signal: That of this rank, for the report to hold the highest of all.
            waited_s: Time that this rank waited for batches of the step; likewise.
        """
        ...


class ProgressReport(Callback):
    """Measures, shows and logs training; logs the first and the last step too.

    It travels in checkpoints: a resumed run cuts ``metrics.jsonl`` back to the checkpoint and goes
    on counting its time, while speed and remaining time are measured anew.

    Attributes:
        report: Of the optimiser step that is about to be done or was done last.
        skipped_steps: Steps whose gradients were left out, by whoever left them out.
    """

    report: StepReport

    def __init__(
        self,
        log: MetricsLog,
        *,
        every_n_steps: int,
        total_steps: int,
        is_terminal: bool,
        signals: StopSignals,
        waited_s: Callable[[], float],
    ) -> None:
        """Prepare, without output.

        Args:
            log: The run's log; only rank 0 writes to it.
            every_n_steps: Optimiser steps between two lines, at least 1.
            total_steps: Optimiser steps of the whole run, for the remaining time.
            is_terminal: Whether to draw a bar instead of plain lines.
            signals: Knows whether this rank is asked to stop.
            waited_s: Tells how long this rank has waited for batches so far.
        """
        self.skipped_steps = 0
        self._log = log
        self._signals = signals
        self._waited_s, self._seen_waited_s = waited_s, 0.0
        self._has_complained = False
        self._every_n_steps = every_n_steps
        self._total_steps = total_steps
        self._is_terminal = is_terminal
        self._bar: ProgressBar | None = None  # on rank 0 alone, which alone shows and logs
        self._lr = 0.0
        self._started_s = self._window_started_s = time.perf_counter()
        self._resumed: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks, and rewind the log of a resumed run."""
        now_s = time.perf_counter()
        self._started_s = now_s - self._resumed.get("elapsed_s", 0.0)
        self._begin_window(now_s)
        self._seen_step = self._logged_step = self._first_step = trainer.global_step
        self._pace = (trainer.global_step, now_s)
        if not trainer.is_global_zero:
            return
        if self._resumed:
            self._log.rewind(self._resumed["log_bytes"])
        num_epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None
        self._bar = ProgressBar(
            total_steps=self._total_steps, num_epochs=num_epochs, is_terminal=self._is_terminal
        )
        self._bar.start(trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rate before the schedule moves it on behind the step."""
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Ask for the step's report, on every rank, since the module may have to sum over them."""
        module = cast(ReportsSteps, pl_module)
        waited_s = self._waited_s()
        self.report = module.step_report(
            stop_signal=self._signals.received, waited_s=waited_s - self._seen_waited_s
        )
        self._seen_waited_s = waited_s

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if the batch completed an optimiser step."""
        step = trainer.global_step
        if step == self._seen_step:
            return
        self._seen_step, self._seen_epoch = step, trainer.current_epoch + 1
        self._window_tokens += self.report.num_tokens
        self._window_waited_s += self.report.waited_s
        self._window_pages += self.report.num_pages
        self._window_pages_kept += self.report.num_pages_kept
        if self._bar is not None:
            self._bar.advance(step, self._seen_epoch)
        if step in (1, self._total_steps) or step % self._every_n_steps == 0:
            self._write(trainer, pl_module.device)
        if self._pace[0] == self._first_step:
            # The first step compiles and warms up: it would spoil the remaining time for long.
            self._pace = (step, time.perf_counter())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock behind tokens per second."""
        self._paused_s = time.perf_counter()
        if self._bar is not None:
            self._bar.announce("validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let that clock go on."""
        self._window_started_s += time.perf_counter() - self._paused_s
        if self._bar is not None:
            self._bar.advance(self._seen_step, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last step of a run that ended early, and give the terminal back."""
        if self._seen_step > self._logged_step:
            self._write(trainer, pl_module.device)
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back before the error is shown."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; everything logged so far is on the disk when this returns."""
        return {
            "elapsed_s": time.perf_counter() - self._started_s,
            "log_bytes": self._log.flush(),
            "skipped_steps": self.skipped_steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what a checkpoint kept; acted upon when training starts."""
        self._resumed = state_dict
        self.skipped_steps = state_dict["skipped_steps"]

    def _write(self, trainer: Trainer, device: torch.device) -> None:
        """Show and log the step just done, and begin a new window for tokens per second."""
        now_s = time.perf_counter()
        line = self._measure(now_s, device)
        is_first = self._logged_step == self._first_step
        self._logged_step = self._seen_step
        hits = self._window_pages_kept / self._window_pages if self._window_pages else None
        self._begin_window(now_s)
        if self._bar is None:
            return
        values = asdict(line)
        if self.skipped_steps:
            values["skipped_steps"] = self.skipped_steps
        if hits is not None:
            values["vision_cache_hits"] = hits
        self._log.log(values)
        self._bar.show(line)
        if line.data_wait_share > _MOST_WAITING and not (is_first or self._has_complained):
            self._has_complained = True
            self._bar.say(
                f"{line.data_wait_share:.0%} of the time since the last line went on waiting for "
                "batches; raise hardware.num_workers"
            )
        step = values.pop("step")
        for logger in trainer.loggers:
            logger.log_metrics({f"train/{name}": v for name, v in values.items()}, step=step)

    def _begin_window(self, now_s: float) -> None:
        """Of what is measured from one line to the next."""
        self._window_started_s, self._window_tokens, self._window_waited_s = now_s, 0, 0.0
        self._window_pages = self._window_pages_kept = 0

    def _measure(self, now_s: float, device: torch.device) -> StepLine:
        step, (pace_step, pace_started_s) = self._seen_step, self._pace
        s_per_step = (now_s - pace_started_s) / max(1, step - pace_step)
        window_s = now_s - self._window_started_s
        return StepLine(
            step=step,
            epoch=self._seen_epoch,
            loss=self.report.loss,
            lr=self._lr,
            tokens_per_s=self._window_tokens / window_s,
            data_wait_share=min(1.0, self._window_waited_s / window_s),
            elapsed_s=now_s - self._started_s,
            remaining_s=max(0, self._total_steps - step) * s_per_step,
            peak_memory_gib=peak_memory_gib(device),
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._log.flush()
            self._log.close()
            self._bar = None


def peak_memory_gib(device: torch.device) -> float:
    """Most memory that this process has held: of tensors on a GPU, else resident in all.

    Args:
        device: Where the model is.

    Returns:
        GiB, this process alone: not its data workers, not other ranks.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20  # bytes there, KiB here
