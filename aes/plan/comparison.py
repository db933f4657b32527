"""One run under each strategy -> memory, communication and time, side by side.

Decides nothing: which strategy is taken is the user's choice; advice and remedies read this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from aes.hardware import HardwareSpec, StrategySpec
from aes.plan.communication import CommunicationPlan, plan_communication, validation_passes
from aes.plan.lengths import LengthSummary
from aes.plan.memory import MemoryPlan, plan_memory
from aes.plan.sharding import DDP, FSDP2, OFFLOAD, SINGLE, ZERO2, ZERO3
from aes.plan.steps import StepPlan
from aes.plan.time import TimePlan, plan_time
from aes.plan.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run does, whatever the strategy.

    Attributes:
        num_traits: Scores of an answer.
        machine_memory_gib: Memory per device of the machine at hand, for hardware that names none.
    """

    train: LengthSummary
    validation: LengthSummary
    steps: StepPlan
    num_traits: int
    global_batch_size: int
    validation_batch_size: int
    machine_memory_gib: float | None


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a run needs and takes under one strategy."""

    strategy: str
    memory: MemoryPlan
    communication: CommunicationPlan
    time: TimePlan


def strategies_for(hardware: HardwareSpec) -> Iterator[StrategySpec]:
    """Those that make sense there; shards in host memory are nothing new to a CPU."""
    yield from (DDP, ZERO2, FSDP2, ZERO3) if hardware.num_ranks > 1 else (SINGLE,)
    if hardware.accelerator == "cuda":
        yield OFFLOAD


def compute_costs(load: Workload, job: Job) -> Costs:
    """Memory, communication and time of ``job`` under ``load.strategy``."""
    passes = validation_passes(
        num_examples=job.validation.num_examples,
        num_ranks=load.hardware.num_ranks,
        batch_size=job.validation_batch_size,
        num_traits=job.num_traits,
    )
    communication = plan_communication(load, steps=job.steps, num_validation_passes=passes)
    return Costs(
        strategy=load.strategy.name,
        memory=plan_memory(load, machine_memory_gib=job.machine_memory_gib),
        communication=communication,
        time=plan_time(
            load,
            train=job.train,
            validation=job.validation,
            steps=job.steps,
            communication=communication,
            num_traits=job.num_traits,
            global_batch_size=job.global_batch_size,
            validation_batch_size=job.validation_batch_size,
        ),
    )


def compare_strategies(load: Workload, job: Job) -> tuple[Costs, ...]:
    """The run under every strategy that makes sense on its hardware."""
    found = strategies_for(load.hardware)
    return tuple(compute_costs(replace(load, strategy=strategy), job) for strategy in found)
