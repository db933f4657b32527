"""A run's settings and lengths -> the values that advice is given on, by their names there."""

from __future__ import annotations

from aes.model import AdapterSpec, LoraSpec
from aes.plan.lengths import LengthSummary, MeasuredData
from aes.plan.planned_run import PlannedRun
from aes.plan.steps import Schedule, StepPlan


def run_settings(run: PlannedRun, steps: StepPlan, train: LengthSummary) -> dict[str, float | str]:
    """What ``advise`` looks at, but for the strategy.

    Args:
        train: Lengths that are trained on.
    """
    return {
        **_schedule_settings(
            run.schedule,
            steps,
            global_batch_size=run.global_batch_size,
            num_examples=run.data.train.num_examples,
        ),
        **_adapter_settings(run.adapter, run.lr),
        **_data_settings(run.data, train),
    }


def _schedule_settings(
    schedule: Schedule, steps: StepPlan, *, global_batch_size: int, num_examples: int
) -> dict[str, float | str]:
    return {
        "trainer.max_epochs": float(schedule.max_epochs),
        "optim.warmup_ratio": schedule.warmup_ratio,
        "optim.schedule": schedule.course,
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
