"""Lightning's view of training: a step's loss, the optimiser, and when to validate."""

# ruff: noqa: ARG002 (a hook takes what Lightning passes, needed or not)

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from aes.data.branches import add_branches
from aes.kernels.forward import autocast
from aes.model.adapters import trainable_lora_b
from aes.model.sharding import full_tensor
from aes.model.vision_cache import VisionCache
from aes.ranks import ALONE, Ranks
from aes.training.loss import summed_loss
from aes.training.optim import build_optimizer, build_schedule, parameter_groups
from aes.training.progress import StepReport
from aes.training.spec import ExpectedLossSpec, LossSpec, OptimSpec, OrdinalLossSpec
from aes.training.validation import Validation


class TuningModule(LightningModule):
    """Trains the model inside an Engine.

    Args:
        validation: Judges the part that is held out; its Engine holds the model that is trained.
        loss: Which loss is taken.
        optim: Optimiser and schedule.
        precision: As the model was loaded.
        accumulation: Micro-batches per optimiser step.
        num_steps: Optimiser steps of the whole run.
        logit_rows: Rows of logits that are there at once; ``None``: all.
        vision_cache: Gives pages' features in place of the pages; ``None``: nobody does.
        ranks: The processes that train together.
        begins_as_base: Whether the adapter changes nothing yet; if not, it was trained before.
    """

    # Checkpoints hold what is trained; the frozen base comes from its own folder.
    strict_loading = False

    def __init__(
        self,
        *,
        validation: Validation,
        loss: LossSpec,
        optim: OptimSpec,
        precision: Literal["fp32", "bf16"],
        accumulation: int,
        num_steps: int,
        logit_rows: int | None = None,
        vision_cache: VisionCache | None = None,
        ranks: Ranks = ALONE,
        begins_as_base: bool = True,
    ) -> None:
        super().__init__()
        self.model = validation.engine.model
        self.validation = validation
        self.loss_spec = loss
        self.optim_spec = optim
        # Now and not when training begins, so that a wrong name leaves no run behind.
        parameter_groups(self.model, optim)
        self.base_precision = precision
        self.accumulation = accumulation
        self.num_steps = num_steps
        self.logit_rows = logit_rows
        self.vision_cache = vision_cache
        self.ranks = ranks
        self.begins_as_base = begins_as_base
        self._loss_of_step = torch.zeros(())
        self._tokens_of_step = 0
        self._steps_done = 0

    def configure_model(self) -> None:
        """Nothing to do: a model that is sharded is so since it was loaded."""

    def on_train_start(self) -> None:
        """A new adapter must not change the base's answers before the first step."""
        self._steps_done = self.trainer.global_step
        if self.trainer.global_step == 0 and self.begins_as_base:
            for b in trainable_lora_b(self.model):
                assert not full_tensor(b).any(), "lora_B is not zero"

    def on_train_epoch_start(self) -> None:
        """Dropout acts in training only."""
        self.model.train()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """This micro-batch's share of the mean loss over the whole global batch."""
        guide = self.validation.engine.processor.guide
        if isinstance(self.loss_spec, ExpectedLossSpec | OrdinalLossSpec):
            batch = add_branches(batch, guide)  # which only a loss on scores pays for
        with autocast(self.base_precision, self.device):
            if self.vision_cache is not None:
                batch = self.vision_cache.fill(self.model, batch)
            loss = summed_loss(
                self.model,
                batch,
                spec=self.loss_spec,
                score_steps=guide.table,
                logit_rows=self.logit_rows,
            )
        share = loss / batch["num_supervised_in_step"]
        self._loss_of_step = self._loss_of_step.to(share.device) + share.detach()
        self._tokens_of_step += int(batch["num_tokens"])
        # Strategies divide by accumulation and ranks, but the share is already of the whole batch.
        return share * self.accumulation * self.ranks.num_ranks

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Drop the gradients of a step that is done.

        Lightning does so in the first micro-batch of the next, which may be an empty one.
        """
        if self.trainer.global_step != self._steps_done:
            self._steps_done = self.trainer.global_step
            self.zero_grad(set_to_none=True)

    def step_report(self, *, stop_signal: int, waited_s: float) -> StepReport:
        """Loss and tokens of the optimiser step about to be done, in one exchange of all ranks."""
        shares = self.ranks.gather(
            (float(self._loss_of_step), self._tokens_of_step, stop_signal, waited_s, self._pages())
        )
        losses, tokens, signals, waits_s, pages = zip(*shares, strict=True)
        report = StepReport(
            loss=sum(losses),
            num_tokens=sum(tokens),
            stop_signal=max(signals),
            waited_s=max(waits_s),
            num_pages=sum(seen for seen, _ in pages),
            num_pages_kept=sum(kept for _, kept in pages),
        )
        self._loss_of_step = torch.zeros(())
        self._tokens_of_step = 0
        return report

    def _pages(self) -> tuple[int, int]:
        """Pages since the last call, and those whose features were kept, of this rank."""
        return (0, 0) if self.vision_cache is None else self.vision_cache.count()

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.validation.begin()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Judge a batch."""
        self.validation.step(batch)

    def on_validation_epoch_end(self) -> None:
        """Make the metrics known to callbacks and loggers."""
        values = {f"val/{name}": value for name, value in self.validation.end().items()}
        # Loggers get them from ValidationLog, with the step that they belong to.
        self.log_dict(values, logger=False)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """AdamW, its rate changed after every optimiser step."""
        optimizer = build_optimizer(self.model, self.optim_spec)
        schedule = build_schedule(optimizer, self.optim_spec, num_steps=self.num_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen base out."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if name in trained
        }
