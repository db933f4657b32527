"""A run's settings and the lengths of its data -> the Plan: what it will cost, and what stops it.

Puts the parts together; the arithmetic is in the modules beside this one. Looks at no file, no
device and no weight, so the same settings give the same plan on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from aes.hardware import HardwareSpec, StrategySpec, accumulation_steps
from aes.model import AdapterSpec, LoraSpec, ModelSpec
from aes.plan.advice import advise
from aes.plan.blockers import find_data_blockers, find_memory_blockers
from aes.plan.communication import CommunicationPlan
from aes.plan.comparison import Costs, Job, compare_strategies, compute_costs
from aes.plan.lengths import LengthSummary, MeasuredData, summarise
from aes.plan.memory import MemoryPlan
from aes.plan.parameters import ParameterCount, Parameters
from aes.plan.steps import Schedule, StepPlan, plan_steps
from aes.plan.strategy_advice import strategy_settings
from aes.plan.time import TimePlan
from aes.plan.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do and need.

    Attributes:
        model: Its name for people.
        essays: Counts of essays: ``read``, ``kept``, ``shrunk``.
        dropped: Essays left out, by reason.
        glyph_px: Least and greatest height of a glyph; ``None`` where no page is drawn.
        max_tokens: Limit of a sample.
        parameters: Part of the model -> (parameters, trained ones).
        strategies: The same run under every strategy that makes sense on the hardware.
        blockers: What would stop the run, each with a cure; a run with blockers must not start.
        advice: What might be set better; never stops a run.
    """

    model: str
    hardware: HardwareSpec
    strategy: str
    checkpointing: bool
    global_batch_size: int
    essays: Mapping[str, int]
    dropped: Mapping[str, int]
    glyph_px: tuple[float, float] | None
    max_tokens: int
    train: LengthSummary
    validation: LengthSummary
    test: LengthSummary
    parameters: Mapping[str, ParameterCount]
    memory: MemoryPlan
    steps: StepPlan
    communication: CommunicationPlan
    time: TimePlan
    strategies: tuple[Costs, ...]
    blockers: tuple[str, ...]
    advice: tuple[str, ...]


def make_plan(
    *,
    model: ModelSpec,
    adapter: AdapterSpec,
    parameters: Parameters,
    hardware: HardwareSpec,
    strategy: StrategySpec,
    data: MeasuredData,
    schedule: Schedule,
    ranges: Mapping[str, tuple[int, int]],
    global_batch_size: int,
    validation_batch_size: int,
    lr: float,
    checkpointing: bool,
    machine_memory_gib: float | None,
) -> Plan:
    """Plan a run.

    Args:
        model: Geometry, and whether there are weights.
        adapter: What is trained.
        parameters: Of the model with its adapter, as `count_parameters` gives them.
        hardware: What trains it.
        strategy: How it is spread.
        data: Lengths of all samples.
        schedule: Epochs, validations and saves.
        ranges: Lowest and highest score by trait, as validation asks for them.
        global_batch_size: Samples per optimiser step.
        validation_batch_size: Examples that are decoded together.
        lr: Highest learning rate.
        checkpointing: Whether layers are recomputed in the backward pass.
        machine_memory_gib: Memory of the machine at hand, which its ranks share, for hardware that
            names none; ``None``: not known, and whether the run fits is left open.

    Raises:
        ValueError: If the global batch cannot be cut into equal micro-batches.
    """
    splits = _summaries(data, global_batch_size, hardware)
    load = _workload(model, adapter, parameters, hardware, strategy, checkpointing, splits["train"])
    steps = _steps(schedule, data.train.num_examples, global_batch_size, hardware)
    share = None if machine_memory_gib is None else machine_memory_gib / hardware.devices
    job = Job(
        train=splits["train"],
        validation=splits["validation"],
        steps=steps,
        num_traits=len(ranges),
        global_batch_size=global_batch_size,
        validation_batch_size=validation_batch_size,
        machine_memory_gib=share,
    )
    costs = compute_costs(load, job)
    strategies = compare_strategies(load, job)
    return Plan(
        model=PurePath(model.path).name if model.path else "random weights",
        hardware=hardware,
        strategy=strategy.name,
        checkpointing=checkpointing,
        global_batch_size=global_batch_size,
        essays=dict(data.essays),
        dropped=dict(data.dropped),
        glyph_px=data.glyph_px,
        max_tokens=data.max_tokens,
        **splits,
        parameters={name: ParameterCount(*count) for name, count in parameters.items()},
        memory=costs.memory,
        steps=steps,
        communication=costs.communication,
        time=costs.time,
        strategies=strategies,
        blockers=(
            *find_data_blockers(data, num_ranks=hardware.num_ranks),
            *find_memory_blockers(load, costs.memory, global_batch_size=global_batch_size),
        ),
        advice=advise(
            {
                **_schedule_settings(schedule, steps, global_batch_size, data.train.num_examples),
                **_adapter_settings(adapter, lr),
                **_data_settings(data, splits["train"]),
                **strategy_settings(load, costs, strategies, job, lr, schedule.warmup_ratio),
            },
            strategy=strategy.name,
            is_random=model.path is None,
        ),
    )


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, for ``plan.json``."""
    parameters = {name: count._asdict() for name, count in plan.parameters.items()}
    strategies = [{**asdict(c), "memory": _memory_dict(c.memory)} for c in plan.strategies]
    plain = {"parameters": parameters, "memory": _memory_dict(plan.memory)}
    return {**asdict(plan), **plain, "strategies": strategies}


def _memory_dict(memory: MemoryPlan) -> dict[str, Any]:
    return {**asdict(memory), "fits": memory.fits}


def _summaries(
    data: MeasuredData, global_batch_size: int, hardware: HardwareSpec
) -> dict[str, LengthSummary]:
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        name: summarise(
            split,
            global_batch_size=global_batch_size,
            micro_batch_size=hardware.micro_batch_size,
            num_ranks=hardware.num_ranks,
        )
        for name, split in splits.items()
    }


def _steps(
    schedule: Schedule, num_examples: int, global_batch_size: int, hardware: HardwareSpec
) -> StepPlan:
    return plan_steps(
        schedule,
        num_examples=num_examples,
        global_batch_size=global_batch_size,
        accumulation=accumulation_steps(
            global_batch_size=global_batch_size,
            micro_batch_size=hardware.micro_batch_size,
            num_ranks=hardware.num_ranks,
        ),
    )


def _workload(
    model: ModelSpec,
    adapter: AdapterSpec,
    parameters: Parameters,
    hardware: HardwareSpec,
    strategy: StrategySpec,
    checkpointing: bool,
    train: LengthSummary,
) -> Workload:
    return Workload(
        model=model,
        parameters=parameters,
        hardware=hardware,
        strategy=strategy,
        checkpointing=checkpointing,
        rank=adapter.rank if isinstance(adapter, LoraSpec) else 0,
        max_tokens=train.max_tokens,
        max_image_tokens=train.max_image_tokens,
        max_supervised=train.max_supervised,
    )


def _schedule_settings(
    schedule: Schedule, steps: StepPlan, global_batch_size: int, num_examples: int
) -> dict[str, float]:
    return {
        "trainer.max_epochs": float(schedule.max_epochs),
        "optim.warmup_ratio": schedule.warmup_ratio,
        "batch_over_samples": global_batch_size / max(1, num_examples),
        # A run that was cut short by hand is a try, of which nobody expects much.
        **({"num_steps": float(steps.total)} if schedule.max_steps is None else {}),
    }


def _adapter_settings(adapter: AdapterSpec, lr: float) -> dict[str, float]:
    if not isinstance(adapter, LoraSpec):
        return {"full_lr": lr}
    return {
        "adapter.rank": float(adapter.rank),
        "alpha_over_rank": adapter.alpha / adapter.rank,
        "adapter.dropout": adapter.dropout,
        "lora_lr": lr,
    }


def _data_settings(data: MeasuredData, train: LengthSummary) -> dict[str, float]:
    num_validation = data.validation.num_examples
    return {
        "samples": float(train.num_examples),
        "validation_missing": float(not num_validation),
        "limit_over_longest": data.max_tokens / train.max_tokens if train.max_tokens else 0.0,
        "padding_share": train.padding_share,
        **({"num_validation": float(num_validation)} if num_validation else {}),
        **({"glyph_px": data.glyph_px[0]} if data.glyph_px else {}),
    }
