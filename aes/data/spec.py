"""How an epoch is cut into steps and micro-batches, as plain settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class BatchingSpec:
    """What stands together in a step, and how a micro-batch is laid out.

    Attributes:
        order: ``shuffled``: any samples make up a step. ``bucketed``: samples of like length do.
        pool_steps: ``bucketed`` sorts within so many steps' worth of shuffled samples; ``None``:
            within the whole epoch, or not at all where the order is ``shuffled``.
        layout: ``padded``: every sample is filled up to the longest of its micro-batch.
            ``packed``: samples stand end to end in one row, and none sees another. ``auto``:
            packed wherever the loss and the attention kernel allow it.
        max_tokens: Most tokens of a micro-batch, padding included; ``None``: it is cut by
            ``hardware.micro_batch_size`` alone.
    """

    order: Literal["bucketed", "shuffled"]
    pool_steps: Annotated[int, Field(ge=1)] | None
    layout: Literal["auto", "padded", "packed"]
    max_tokens: Annotated[int, Field(ge=1)] | None

    def resolved(self, *, packs: bool) -> BatchingSpec:
        """With the layout that ``auto`` stands for: packed where that is possible and pays."""
        if self.layout != "auto":
            return self
        return replace(self, layout="packed" if packs else "padded")
