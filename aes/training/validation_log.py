"""Each validation -> a line in ``metrics.jsonl`` and in the loggers, at the step it belongs to."""

# ruff: noqa: ARG002 (a hook takes what Lightning passes, needed or not)

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from aes.training.metrics_log import MetricsLog


class ValidationLog(Callback):
    """Writes validation metrics.

    Args:
        log: The run's log.
    """

    def __init__(self, log: MetricsLog) -> None:
        self._log = log

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write one line."""
        if not trainer.is_global_zero:
            return
        metrics = validation_metrics(trainer)
        place = {"step": trainer.global_step, "epoch": trainer.current_epoch + 1}
        self._log.log(place | metrics)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)


def validation_metrics(trainer: Trainer) -> dict[str, float]:
    """The newest validation metrics by name, e.g. ``val/qwk/total``."""
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }
