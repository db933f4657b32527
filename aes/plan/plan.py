"""A run's settings and the lengths of its data -> the Plan: what it will cost, and what stops it.

Puts the parts together; the arithmetic is in the modules beside this one. Looks at no file, no
device and no weight, so the same settings give the same plan on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from aes.data import BatchingSpec
from aes.hardware import HardwareSpec, accumulation_steps
from aes.model import LoraSpec
from aes.plan.advice import advise
from aes.plan.blockers import find_data_blockers, find_memory_blockers
from aes.plan.checkpointing import choose_checkpointing
from aes.plan.communication import CommunicationPlan
from aes.plan.comparison import Costs, Job, compare_strategies, compute_costs
from aes.plan.lengths import LengthSummary, plan_epoch, summarise
from aes.plan.memory import MemoryPlan
from aes.plan.parameters import ParameterCount
from aes.plan.planned_run import PlannedRun
from aes.plan.run_advice import run_settings
from aes.plan.steps import StepPlan, plan_steps
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
        essays: Counts of essays, or of what else was read: ``read``, ``kept``, ``shrunk``.
        unit: What was read.
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
    unit: str
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


def make_plan(run: PlannedRun) -> Plan:
    """Plan a run.

    Raises:
        ValueError: If the global batch cannot be cut into equal micro-batches.
    """
    hardware, data, model = run.hardware, run.data, run.model
    accumulation_steps(
        global_batch_size=run.global_batch_size,
        micro_batch_size=hardware.micro_batch_size,
        num_ranks=hardware.num_ranks,
    )
    splits = _summaries(run)
    load, reason = _load(run, splits["train"])
    job = _job(run, splits)
    costs, strategies = compute_costs(load, job), compare_strategies(load, job)
    return Plan(
        model=PurePath(model.path).name if model.path else "random weights",
        hardware=hardware,
        strategy=run.strategy.name,
        checkpointing=load.checkpointing,
        checkpointing_reason=reason,
        global_batch_size=run.global_batch_size,
        batching=run.batching,
        essays=dict(data.essays),
        unit=data.unit,
        dropped=dict(data.dropped),
        glyph_px=data.glyph_px,
        page_features=run.page_features,
        max_tokens=data.max_tokens,
        **splits,
        parameters={name: ParameterCount(*count) for name, count in run.parameters.items()},
        memory=costs.memory,
        steps=job.steps,
        communication=costs.communication,
        time=costs.time,
        strategies=strategies,
        blockers=_blockers(run, load, costs),
        advice=advise(
            {
                **run_settings(run, job.steps, splits["train"]),
                **strategy_settings(
                    load, costs, strategies, job, run.lr, run.schedule.warmup_ratio
                ),
            },
            strategy=run.strategy.name,
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


def _summaries(run: PlannedRun) -> dict[str, LengthSummary]:
    data = run.data
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        name: summarise(
            split,
            global_batch_size=run.global_batch_size,
            micro_batch_size=run.hardware.micro_batch_size,
            batching=run.batching,
            num_ranks=run.hardware.num_ranks,
        )
        for name, split in splits.items()
    }


def _load(run: PlannedRun, train: LengthSummary) -> tuple[Workload, str]:
    """What a device holds and computes, and why so much is recomputed."""
    longest = sorted(run.data.train.num_tokens, reverse=True)[: run.global_batch_size]
    load = Workload(
        model=run.model,
        parameters=run.parameters,
        hardware=run.hardware,
        strategy=run.strategy,
        checkpointing=Checkpointing(policy="none", every=1),
        kernels=run.kernels,
        is_packed=run.batching.layout == "packed",
        page_features=run.page_features,
        rank=run.adapter.rank if isinstance(run.adapter, LoraSpec) else 0,
        longest_tokens=tuple(longest),
        max_batch_tokens=run.batching.max_tokens,
        max_image_tokens=train.max_image_tokens,
        max_supervised=train.max_supervised,
    )
    chosen, reason = choose_checkpointing(
        load,
        asked=run.checkpointing,
        every=run.checkpointing_every,
        train=train,
        machine_memory_gib=run.memory_share_gib,
    )
    return replace(load, checkpointing=chosen), reason


def _job(run: PlannedRun, splits: Mapping[str, LengthSummary]) -> Job:
    return Job(
        train=splits["train"],
        validation=splits["validation"],
        steps=_steps(run),
        num_traits=len(run.ranges),
        global_batch_size=run.global_batch_size,
        validation_batch_size=run.validation_batch_size,
        machine_memory_gib=run.memory_share_gib,
    )


def _steps(run: PlannedRun) -> StepPlan:
    epoch = plan_epoch(
        run.data.train,
        global_batch_size=run.global_batch_size,
        micro_batch_size=run.hardware.micro_batch_size,
        batching=run.batching,
        num_ranks=run.hardware.num_ranks,
    )
    return plan_steps(
        run.schedule,
        num_examples=run.data.train.num_examples,
        global_batch_size=run.global_batch_size,
        accumulation=epoch.accumulation,
    )


def _blockers(run: PlannedRun, load: Workload, costs: Costs) -> tuple[str, ...]:
    num_ranks, max_tokens = run.hardware.num_ranks, run.batching.max_tokens
    return (
        *find_data_blockers(run.data, num_ranks=num_ranks, max_batch_tokens=max_tokens),
        *find_memory_blockers(load, costs.memory, global_batch_size=run.global_batch_size),
    )
