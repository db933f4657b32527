"""The costs of strategies side by side -> the numbers by which a strategy is judged.

The judgement itself is a rule in ``advice.yaml`` like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from aes.plan.comparison import Costs, Job
from aes.plan.sharding import OFFLOAD
from aes.plan.workload import Workload


def strategy_settings(
    load: Workload,
    costs: Costs,
    strategies: Sequence[Costs],
    job: Job,
    lr: float,
    warmup_ratio: float,
) -> dict[str, float]:
    """Numbers about the strategy by the names that rules have for them, only those that matter.

    Args:
        load: The run.
        costs: Of its own strategy.
        strategies: Of all that make sense on its hardware.
        lr: Highest learning rate.
        warmup_ratio: Share of all steps over which the rate rises.
    """
    others = {other.strategy: other for other in strategies}
    found: dict[str, float] = {}
    if load.strategy == OFFLOAD:
        rival = others["zero3" if "zero3" in others else "single"]
        found["offload_needed"] = float(rival.memory.fits is not True)
    if load.hardware.num_ranks == 1 or not load.strategy.shards_weights:
        return found
    compute_s = max(1e-9, costs.time.expected_s - costs.time.communication_s)
    return found | {
        "step_gb": costs.communication.step,
        "whole_gb": others["zero2"].communication.step,
        "fits_whole": float(others["zero2"].memory.fits is True),
        "gather_over_compute": costs.time.communication_s / compute_s,
        "sharded_batch": float(job.global_batch_size),
        "sharded_warmup": warmup_ratio,
        "sharded_lr": lr,
    }
