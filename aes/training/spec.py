"""Settings of a training run: loss, optimiser, length, saving, logging.

Plain values; the modules beside this one act on them.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

_SCHEMA = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class LossSpec:
    """The loss on tokens, all there is unless a subclass adds a loss on scores.

    Attributes:
        name: ``ce``: cross-entropy over the whole vocabulary at every supervised token;
            ``valid_digits``: among the tokens that a valid answer allows there. ``expected`` and
            ``ordinal`` have keys of their own, in the classes below.
        feedback_weight: Factor on the loss of feedback tokens, of which there are many more than
            of scores; 1 counts every token alike.
    """

    name: Literal["ce", "valid_digits", "expected", "ordinal"]
    feedback_weight: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if type(self) is LossSpec and self.name in ("expected", "ordinal"):
            raise ValueError(
                f"name={self.name} has keys that this loss has not; choose it whole by "
                f"loss={self.name}"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class ExpectedLossSpec(LossSpec):
    """Squared error of the mean score, in units of the trait's range, beside the token loss.

    Attributes:
        name: The token loss beside it is that of ``valid_digits``.
        score_weight: Share of this loss at scores; the token loss there has the rest. Feedback's
            part stays as it is.
    """

    name: Literal["expected"]
    score_weight: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class OrdinalLossSpec(LossSpec):
    """Cross-entropy of whole scores against labels that fall off with distance from gold.

    Attributes:
        name: The token loss beside it is that of ``valid_digits``.
        score_weight: Share of this loss at scores; the token loss there has the rest. Feedback's
            part stays as it is.
        ordinal_sigma: Standard deviation of the labels, a share of the trait's range: 0.05 of 20
            points is one point.
    """

    name: Literal["ordinal"]
    score_weight: Annotated[float, Field(ge=0, le=1)]
    ordinal_sigma: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class OptimSpec:
    """AdamW and its schedule.

    Attributes:
        lr: Highest learning rate.
        warmup_ratio: Share of all optimiser steps over which the rate rises from 0.
        lr_factors: Module name (suffix) to factor on ``lr`` for weights trained whole.
    """

    lr: Annotated[float, Field(gt=0, le=1)]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    eps: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["cosine", "linear", "constant"]
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)]
    lr_factors: dict[str, Annotated[float, Field(gt=0)]]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class TrainerSpec:
    """How long to train and how often to look.

    Attributes:
        max_epochs: Passes over the training split.
        max_steps: Optimiser steps after which to stop early; ``None``: no such limit; 0: train
            nothing, and make a run of what ``adapter.init_from`` names.
        gradient_checkpointing: What the backward pass computes again instead of keeping it.
            ``none``; ``attention``: of each layer its attention; ``every_nth``: each n-th layer
            whole; ``all``: all layers, for much less memory and about a third more work; ``auto``:
            the cheapest of these that fits the device by the plan.
        gradient_checkpointing_every: The n of ``every_nth``: 2 computes every second layer again.
        gradient_clip_norm: Gradients are scaled down to this norm; ``None``: never.
        log_every_n_steps: Optimiser steps between two lines of ``metrics.jsonl``.
        val_every_n_epochs: Validation comes after every so many epochs, and after the last.
        on_bad_loss: What to do with a step whose loss or gradient is infinite or not a number.
            ``stop``: end the run. ``skip``: leave its gradients out, count it, and go on. Either
            writes the batch out.
    """

    max_epochs: Annotated[int, Field(ge=1)]
    max_steps: Annotated[int, Field(ge=0)] | None
    gradient_checkpointing: Literal["auto", "none", "attention", "every_nth", "all"]
    gradient_checkpointing_every: Annotated[int, Field(ge=2)]
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None
    log_every_n_steps: Annotated[int, Field(ge=1)]
    val_every_n_epochs: Annotated[int, Field(ge=1)]
    on_bad_loss: Literal["stop", "skip"]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class CheckpointSpec:
    """When to save, besides before each validation, at the end, and when asked to stop.

    Attributes:
        every_n_train_steps: Optimiser steps between two saves; ``None``: not by steps.
        save_each_epoch: Save after each epoch too.
        keep_last: Newest checkpoints to keep, besides the best one; the second newest is there for
            the day when the newest cannot be read.
        monitor: Validation metric that decides which checkpoint is best.
    """

    every_n_train_steps: Annotated[int, Field(ge=1)] | None
    save_each_epoch: bool
    keep_last: Annotated[int, Field(ge=1)]
    monitor: str

    @property
    def lower_is_better(self) -> bool:
        """Of ``monitor``."""
        return self.monitor.endswith("/loss")


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class SampleTableSpec:
    """How many validation pages are shown with gold and predicted answers."""

    num_examples: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class WandbSpec:
    """Weights & Biases; ``offline`` writes into the run folder and sends nothing."""

    project: str
    entity: str | None
    name: str | None
    group: str | None
    tags: tuple[str, ...]
    mode: Literal["offline", "online"]


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class CsvSpec:
    """Lightning's CSV files beside ``metrics.jsonl``."""


@dataclass(frozen=True, kw_only=True, config=_SCHEMA)
class NoLoggerSpec:
    """``metrics.jsonl`` alone."""


LoggerSpec = WandbSpec | CsvSpec | NoLoggerSpec
