from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "plan_memory.py"


def test_the_plan_foretells_the_peak_of_a_real_step(session_cache: Path) -> None:
    """Two steps of the nano on a micro-batch of the longest sample, each tensor watched."""
    benchmark = runpy.run_path(str(BENCHMARK))
    plan, measured = benchmark["measure"](
        [
            f"paths.cache={session_cache}",
            "hardware.micro_batch_size=2",
            "trainer.gradient_checkpointing=all",
        ]
    )
    planned = benchmark["planned"](plan)
    for part in ("weights", "gradients", "optimiser"):
        assert planned[part] == pytest.approx(measured[part], rel=0.01), part
    assert planned["rest"] == pytest.approx(measured["rest"], rel=0.1)
    assert plan.memory.total > measured["peak"]
