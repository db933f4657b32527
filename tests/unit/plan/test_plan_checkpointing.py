"""``trainer.gradient_checkpointing=auto``: the quickest that fits, and no quicker one would."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from aes.data import BatchingSpec
from aes.model import KernelSpec
from aes.plan import Plan, plan_to_dict, render_plan
from aes.plan.memory import SAFETY_MARGIN

Reference = Callable[..., Plan]


@pytest.fixture
def fast(
    reference: Reference, fast_kernels: KernelSpec, make_batching: Callable[..., BatchingSpec]
) -> Reference:
    """The reference job by our kernels, packed, on a card of so many GiB."""

    def make(memory_gib: float | None, **changes: Any) -> Plan:
        arguments: dict[str, Any] = {
            "hardware": {"memory_gib": memory_gib},
            "kernels": fast_kernels,
            "batching": make_batching(layout="packed"),
            "checkpointing": "auto",
        }
        return reference(**arguments | changes)

    return make


def test_nothing_is_recomputed_where_everything_fits(fast: Reference) -> None:
    plan = fast(141.0)
    assert plan.checkpointing.policy == "none"
    assert plan.checkpointing_reason == "auto: everything fits"


@pytest.mark.parametrize("memory_gib", [70.0, 71.5, 73.0, 75.0, 77.0])
def test_no_quicker_choice_would_fit(fast: Reference, memory_gib: float) -> None:
    """Every other choice is slower or leaves too little."""
    chosen = fast(memory_gib)
    assert chosen.memory.fits
    others = [("none", 1), ("attention", 1), ("all", 1), *(("every_nth", n) for n in range(2, 49))]
    for policy, every in others:
        plan = fast(memory_gib, checkpointing=policy, checkpointing_every=every)
        room = memory_gib * (1 - SAFETY_MARGIN) - plan.memory.total
        is_safe = room >= 0.15 * (plan.memory.activations + plan.memory.logits)
        assert not is_safe or plan.time.tflop_per_step >= chosen.time.tflop_per_step


def test_less_memory_recomputes_more(fast: Reference) -> None:
    plans = [fast(float(gib)) for gib in (90, 80, 76, 72, 70, 68, 66)]
    work = [plan.time.tflop_per_step for plan in plans]
    assert work == sorted(work)
    assert {plan.checkpointing.policy for plan in plans} >= {"none", "every_nth", "attention"}


def test_where_nothing_fits_the_least_is_taken_and_the_run_is_stopped(fast: Reference) -> None:
    plan = fast(50.0)
    assert plan.checkpointing.policy == "all"
    assert plan.checkpointing_reason.startswith("auto: the least there is; without it ")
    assert "needs" in plan.blockers[0]


def test_a_device_of_unknown_memory_recomputes_nothing(fast: Reference) -> None:
    plan = fast(None)
    assert plan.checkpointing.policy == "none"
    assert "not known" in plan.checkpointing_reason


def test_what_was_asked_for_is_done(fast: Reference) -> None:
    plan = fast(141.0, checkpointing="every_nth", checkpointing_every=5)
    assert (plan.checkpointing.policy, plan.checkpointing.every) == ("every_nth", 5)
    assert plan.checkpointing_reason == ""


def test_the_choice_is_shown(fast: Reference) -> None:
    plan = fast(73.0)
    console = Console(record=True, width=200, file=io.StringIO())
    render_plan(plan, console)
    text = console.export_text()
    assert plan.checkpointing.words in text
    assert plan.checkpointing_reason in text
    written = plan_to_dict(plan)["checkpointing"]
    assert written["policy"] == plan.checkpointing.policy
