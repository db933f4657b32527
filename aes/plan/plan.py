"""A run's settings and the lengths of its data -> the Plan: what it will cost, and what stops it.

Puts the parts together; the arithmetic is in the modules beside this one. Looks at no file, no
device and no weight, so the same settings give the same plan on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from aes.data import BatchingSpec
from aes.hardware import HardwareSpec, StrategySpec, accumulation_steps
from aes.kernels.checkpointing import Policy
from aes.model import AdapterSpec, KernelSpec, LoraSpec, ModelSpec
from aes.plan.advice import advise
from aes.plan.blockers import find_data_blockers, find_memory_blockers
from aes.plan.checkpointing import choose_checkpointing
from aes.plan.communication import CommunicationPlan
from aes.plan.comparison import Costs, Job, compare_strategies, compute_costs
from aes.plan.lengths import LengthSummary, MeasuredData, plan_epoch, summarise
from aes.plan.memory import MemoryPlan
from aes.plan.parameters import ParameterCount, Parameters
from aes.plan.steps import Schedule, StepPlan, plan_steps
from aes.plan.strategy_advice import strategy_settings
from aes.plan.time import TimePlan
from aes.plan.workload import Checkpointing, Workload

if TYPE_CHECKING:
    from aes.model.vision_cache import KeptFeatures


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do and need.

    Attributes:
        model: Its name for people.
        essays: Counts of essays: ``read``, ``kept``, ``shrunk``.
        dropped: Essays left out, by reason.
        glyph_px: Least and greatest height of a glyph; ``None`` where no page is drawn.
        page_features: What is kept of what the vision tower makes of pages; ``None``: not asked.
        max_tokens: Limit of a sample.
        parameters: Part of the model -> (parameters, trained ones).
        checkpointing: What is recomputed in the backward pass, ``auto`` decided.
        checkpointing_reason: Why, if it was left open.
        strategies: The same run under every strategy that makes sense on the hardware.
        blockers: What would stop the run, each with a cure; a run with blockers must not start.
        advice: What might be set better; never stops a run.
    """

    model: str
    hardware: HardwareSpec
    strategy: str
    checkpointing: Checkpointing
    checkpointing_reason: str
    global_batch_size: int
    batching: BatchingSpec
    essays: Mapping[str, int]
    dropped: Mapping[str, int]
    glyph_px: tuple[float, float] | None
    page_features: KeptFeatures | None
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
    batching: BatchingSpec,
    validation_batch_size: int,
    lr: float,
    checkpointing: Policy | Literal["auto"],
    checkpointing_every: int,
    kernels: KernelSpec,
    caches_vision: bool,
    machine_memory_gib: float | None,
    page_features: KeptFeatures | None = None,
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
        batching: How steps are made up, cut and laid out; the layout is decided.
        validation_batch_size: Examples that are decoded together.
        lr: Highest learning rate.
        checkpointing: What is recomputed in the backward pass; ``auto``: what fits.
        checkpointing_every: The n of ``every_nth``.
        kernels: How passes are computed, without ``auto`` but for the logits.
        caches_vision: Whether what the tower makes of a page is kept for later epochs.
        machine_memory_gib: Memory of the machine at hand, which its ranks share, for hardware that
            names none; ``None``: not known, and whether the run fits is left open.
        page_features: What is kept of what the tower makes, for people.

    Raises:
        ValueError: If the global batch cannot be cut into equal micro-batches.
    """
    accumulation_steps(
        global_batch_size=global_batch_size,
        micro_batch_size=hardware.micro_batch_size,
        num_ranks=hardware.num_ranks,
    )
    splits = _summaries(data, global_batch_size, batching, hardware)
    longest = sorted(data.train.num_tokens, reverse=True)[:global_batch_size]
    load = Workload(
        model=model,
        parameters=parameters,
        hardware=hardware,
        strategy=strategy,
        checkpointing=Checkpointing(policy="none", every=1),
        kernels=kernels,
        is_packed=batching.layout == "packed",
        caches_vision=caches_vision,
        rank=adapter.rank if isinstance(adapter, LoraSpec) else 0,
        longest_tokens=tuple(longest),
        max_batch_tokens=batching.max_tokens,
        max_image_tokens=splits["train"].max_image_tokens,
        max_supervised=splits["train"].max_supervised,
    )
    share = None if machine_memory_gib is None else machine_memory_gib / hardware.devices
    chosen, reason = choose_checkpointing(
        load,
        asked=checkpointing,
        every=checkpointing_every,
        train=splits["train"],
        machine_memory_gib=share,
    )
    load = replace(load, checkpointing=chosen)
    steps = _steps(schedule, data, global_batch_size, batching, hardware)
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
        checkpointing=chosen,
        checkpointing_reason=reason,
        global_batch_size=global_batch_size,
        batching=batching,
        essays=dict(data.essays),
        dropped=dict(data.dropped),
        glyph_px=data.glyph_px,
        page_features=page_features,
        max_tokens=data.max_tokens,
        **splits,
        parameters={name: ParameterCount(*count) for name, count in parameters.items()},
        memory=costs.memory,
        steps=steps,
        communication=costs.communication,
        time=costs.time,
        strategies=strategies,
        blockers=(
            *find_data_blockers(
                data, num_ranks=hardware.num_ranks, max_batch_tokens=batching.max_tokens
            ),
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
    data: MeasuredData, global_batch_size: int, batching: BatchingSpec, hardware: HardwareSpec
) -> dict[str, LengthSummary]:
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        name: summarise(
            split,
            global_batch_size=global_batch_size,
            micro_batch_size=hardware.micro_batch_size,
            batching=batching,
            num_ranks=hardware.num_ranks,
        )
        for name, split in splits.items()
    }


def _steps(
    schedule: Schedule,
    data: MeasuredData,
    global_batch_size: int,
    batching: BatchingSpec,
    hardware: HardwareSpec,
) -> StepPlan:
    epoch = plan_epoch(
        data.train,
        global_batch_size=global_batch_size,
        micro_batch_size=hardware.micro_batch_size,
        batching=batching,
        num_ranks=hardware.num_ranks,
    )
    return plan_steps(
        schedule,
        num_examples=data.train.num_examples,
        global_batch_size=global_batch_size,
        accumulation=epoch.accumulation,
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
