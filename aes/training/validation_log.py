"""Each validation -> a line in ``metrics.jsonl`` and in the loggers, at the step it belongs to."""

# ruff: noqa: ARG002 (a hook takes what Lightning passes, needed or not)

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from aes.training.metrics_log import MetricsLog


class ValidationLog(Callback):
    """Writes validation metrics; remembers the step that they belong to.

    Args:
        log: The run's log.
    """

    def __init__(self, log: MetricsLog) -> None:
        self._log = log
        self.validated_step = -1
        self._epoch = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the epoch, which Lightning has moved on when a closing validation asks for it."""
        self._epoch = trainer.current_epoch + 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write one line."""
        self.validated_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        place = {"step": trainer.global_step, "epoch": self._epoch}
        self._log.log(place | validation_metrics(trainer))


def validation_metrics(trainer: Trainer) -> dict[str, float]:
    """The newest validation metrics by name, e.g. ``val/qwk/total``."""
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }
