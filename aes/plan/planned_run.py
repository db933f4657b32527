"""What a plan is made of: a run's settings, and the lengths of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aes.data import BatchingSpec
from aes.hardware import HardwareSpec, StrategySpec
from aes.kernels.checkpointing import Policy
from aes.model import AdapterSpec, KernelSpec, ModelSpec
from aes.plan.lengths import MeasuredData
from aes.plan.parameters import Parameters
from aes.plan.steps import Schedule

if TYPE_CHECKING:
    from aes.model.vision_cache import KeptFeatures


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run before it starts.

    Attributes:
        model: Geometry, and whether there are weights.
        adapter: What is trained.
        parameters: Of the model with its adapter, as ``count_parameters`` gives them.
        hardware: What trains it.
        strategy: How it is spread.
        data: Lengths of all samples.
        schedule: Epochs, validations and saves.
        ranges: Lowest and highest score by trait, as validation asks for them.
        global_batch_size: Samples per optimiser step.
        batching: How steps are made up, cut and laid out; the layout is decided.
        validation_batch_size: Examples that are decoded together.
        lr: Highest learning rate.
        checkpointing: What is recomputed in the backward pass; ``auto``: what fits.
        checkpointing_every: The n of ``every_nth``.
        kernels: How passes are computed, without ``auto`` but for the logits.
        page_features: What is kept of what the vision tower makes of pages; ``None``: nothing.
        machine_memory_gib: Memory of the machine at hand, which its ranks share, for hardware that
            names none; ``None``: not known, and whether the run fits is left open.
    """

    model: ModelSpec
    adapter: AdapterSpec
    parameters: Parameters
    hardware: HardwareSpec
    strategy: StrategySpec
    data: MeasuredData
    schedule: Schedule
    ranges: Mapping[str, tuple[int, int]]
    global_batch_size: int
    batching: BatchingSpec
    validation_batch_size: int
    lr: float
    checkpointing: Policy | Literal["auto"]
    checkpointing_every: int
    kernels: KernelSpec
    page_features: KeptFeatures | None
    machine_memory_gib: float | None

    @property
    def memory_share_gib(self) -> float | None:
        """Of the machine at hand, what one device may take."""
        if self.machine_memory_gib is None:
            return None
        return self.machine_memory_gib / self.hardware.devices
